import numpy as np
import pytest
import torch
from support.moments import (
    LAYOUTS,
    batches_of,
    case_of,
    images_of,
    measured,
    rotated_case,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_rotation_leaves_the_function(layout, dtype):
    case, images = case_of(layout, dtype=dtype), images_of(6, seed=7, dtype=dtype)
    turned = case.rotated().model
    with torch.no_grad():
        out = case.model(images)
        close = 1e-5 if dtype == torch.float32 else 1e-13
        torch.testing.assert_close(turned(images), out, rtol=close, atol=close * float(out.abs().max()))


def test_what_is_in_no_pair_is_kept_once_and_the_source_stays():
    case = case_of("plain")
    before = {name: p.clone() for name, p in case.model.named_parameters()}
    turned = dict(case.rotated().model.named_parameters())
    assert all(torch.equal(p, before[name]) for name, p in case.model.named_parameters())
    apart = {name for name, p in case.model.named_parameters() if turned[name].data_ptr() != p.data_ptr()}
    assert apart == {name for name in before if name.endswith(("qkv.weight", "qkv.bias", "attn.proj.weight"))}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rotation_skips_what_a_norm_or_gate_holds_in_place(layout):
    case, (turned, _) = case_of(layout), rotated_case(layout)
    width = case.model.embed_dim
    same = {}
    for name, p in case.model.named_parameters():
        q = turned.model.get_parameter(name)
        if name == "blocks.0.attn.qkv.weight":
            parts = zip(("q", "k", "v"), p.split(width), q.split(width), strict=True)
            same |= {part: torch.equal(a, b) for part, a, b in parts}
        elif name == "blocks.0.attn.proj.weight":
            same["proj"] = torch.equal(p, q)
        elif "attn.qkv.bias" not in name and "attn.proj.weight" not in name and "qkv.weight" not in name:
            assert torch.equal(p, q), name
    tied, held = layout == "qk_norm", layout in ("inner_norms", "gated")
    assert same == {"q": tied, "k": tied, "v": held, "proj": held}


def change_of_basis(before, after, rows):
    """The matrix that one head's rows were multiplied by."""
    weight = [m.get_parameter("blocks.0.attn.qkv.weight").detach()[rows] for m in (before, after)]
    return weight[1] @ torch.linalg.pinv(weight[0])


def test_rotated_queries_have_diagonal_moments_sorted_by_what_they_carry():
    case, (turned, curves) = case_of("plain"), rotated_case("plain")
    plain, moved = case.moments.logits["blocks.0.qk"], turned.moments.logits["blocks.0.qk"]
    for head in range(3):
        A = change_of_basis(case.model, turned.model, slice(16 * head, 16 * head + 16))
        S = plain.activation[head]
        S = S + 1e-4 * S.diagonal().mean() * torch.eye(16)
        inverse = torch.linalg.inv(A)
        for moment in (A @ S @ A.T, inverse.T @ plain.gradient[head] @ inverse):
            scale = moment.diagonal().sqrt()
            correlation = moment / torch.outer(scale, scale)
            torch.testing.assert_close(correlation, torch.eye(16).double(), rtol=0, atol=1e-6)
        # what the network at hand shows differs by the ridge alone
        correlation = moved.activation[head].clone()
        scale = correlation.diagonal().sqrt()
        assert (correlation / torch.outer(scale, scale) - torch.eye(16)).abs().max() < 0.05
        power = moved.activation[head].diagonal() * moved.gradient[head].diagonal()
        assert (power.diff() < 0).all()
        # q and k have weights of one size
        q, k = (turned.model.blocks[0].attn.qkv.weight[48 * i + 16 * head :][:16].norm(dim=1) for i in (0, 1))
        torch.testing.assert_close(q, k)
    assert (curves["blocks.0.qk"].order == np.arange(16)).all()


def test_the_first_rotated_values_of_a_head_are_the_best_that_any_basis_offers():
    """Damage within a head after refit: N / 2 times the eigenvalues of S O that are left out (Eckart & Young)."""
    case, (turned, _) = case_of("plain"), rotated_case("plain")
    read, moved = case.moments.writers["blocks.0.v"], turned.moments.writers["blocks.0.v"]
    for head in range(3):
        rows = slice(16 * head, 16 * head + 16)
        A = change_of_basis(case.model, turned.model, slice(96 + 16 * head, 112 + 16 * head))
        torch.testing.assert_close(A @ A.T, torch.eye(16).double())
        columns = case.model.blocks[0].attn.proj.weight.detach()[:, rows]
        O = (columns.T @ read.gradient @ columns).numpy()  # noqa: E741
        S = read.covariance[rows, rows].numpy()
        S = S + 1e-4 * np.trace(S) / 16 * np.eye(16)
        values = np.sort(np.linalg.eigvals(S @ O).real)
        turned_S, turned_O = A.numpy() @ S @ A.numpy().T, A.numpy() @ O @ A.numpy().T
        for width in range(1, 16):
            rest = np.arange(width, 16)
            told = np.linalg.solve(turned_S[:width, :width], turned_S[:width, rest])
            untold = turned_S[np.ix_(rest, rest)] - turned_S[rest, :width] @ told
            left = np.trace(turned_O[np.ix_(rest, rest)] @ untold)
            assert left == pytest.approx(values[: 16 - width].sum(), rel=1e-6)
        torch.testing.assert_close(moved.covariance[rows, rows], A @ read.covariance[rows, rows] @ A.T)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_moments_of_the_rotated_network_are_those_measured_on_it(layout):
    claimed = rotated_case(layout)[0]
    fresh = measured(claimed.model, batches_of(images_of(24)))
    for part in ("writers", "readers", "logits"):
        for name, read in getattr(fresh.moments, part).items():
            for field, value in vars(read).items():
                said = torch.as_tensor(getattr(getattr(claimed.moments, part)[name], field), dtype=torch.float64)
                value = torch.as_tensor(value, dtype=torch.float64)
                assert (said - value).abs().max() <= 1e-9 * value.abs().max(), (name, field)
