"""Any network, run piece by piece, computes what it computes; and it is as it was afterwards."""

import copy

import pytest
import timm
import torch
from torch import nn

from prune_realloc.tracing.chain import muted, run_between, run_from, run_to, run_unit
from prune_realloc.tracing.find import find_chain, record_chain

TIMM = {
    "vit_tiny_patch16_224": {"img_size": 32, "depth": 3},
    "vit_small_patch16_dinov3": {"img_size": 32, "depth": 2},
    "eva02_tiny_patch14_224": {"img_size": 28, "depth": 2},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "embed_dim": 24, "depths": (2, 2, 1, 1)},
    "efficientvit_m0": {"img_size": 64},
    "efficientvit_b0": {},
    "levit_128s": {"img_size": 64},
    "tiny_vit_5m_224": {},
    "pvt_v2_b0": {},
    "twins_pcpvt_small": {"img_size": 64},
    "convit_tiny": {"img_size": 32},
    "cait_xxs24_224": {"img_size": 32, "depth": 2},
    "xcit_nano_12_p8_224": {"img_size": 32, "depth": 2},
    "mobilevit_xxs": {},
    "poolformer_s12": {},
    "repvit_m0_9": {},
}
"""timm's name -> arguments that make it small."""


def lively(model: nn.Module, seed: int = 0) -> nn.Module:
    """Random weights, none of them zero, of a size that keeps activations in bounds; biases and scales too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(noise / p[0].numel() ** 0.5 if p.ndim > 1 else 0.2 * noise + 1.0)
    return model.eval()


def pictures(count: int, size: int = 64, seed: int = 3) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def piecewise(model, chain, images):
    x = run_to(model, chain, chain.units[0], images)
    for unit in chain.units[:-1]:
        x = run_between(model, chain, unit, run_unit(model, chain, unit, x))
    return run_from(model, chain, run_unit(model, chain, chain.units[-1], x))


def marks(model):
    """All that a pass could leave behind in a network."""
    own = {name: (vars(m).get("forward"), m.training) for name, m in model.named_modules()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    tensors = {name: (id(p), p._version) for name, p in model.named_parameters()}
    return own, hooks, tensors


class Block(nn.Module):
    def __init__(self, width: int, groups: int = 1) -> None:
        super().__init__()
        self.norm, self.fc1, self.fc2 = nn.LayerNorm(width), nn.Linear(width, 7), nn.Linear(7, width)
        self.conv = nn.Conv1d(width, width, 1, groups=groups)

    def forward(self, grid, x, scale, table=None):
        assert len(grid) == 2
        x = x + self.conv(x.transpose(1, 2)).transpose(1, 2) * scale
        return x + self.fc2(torch.relu(self.fc1(self.norm(x) + table))), grid


class Toy(nn.Module):
    """Blocks that take and give more than a tensor, a stage, and work of the network itself between them."""

    def __init__(self, width: int = 6, tail: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 16, 16)
        self.table = nn.Parameter(torch.randn(1, 1, width))
        self.first, self.second = Block(width), Block(width, groups=2)
        self.down = nn.Sequential(nn.Conv2d(width, 4, 3, padding=1), nn.ReLU(inplace=True))
        self.stage = nn.Sequential(nn.Sequential(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)), nn.Identity())
        self.head, self.tail, self.drop = nn.Linear(4, 5), tail, nn.Dropout(0.5)

    def forward(self, images):
        x = self.stem(images)
        grid = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        x += self.table
        early, _ = x, grid = self.first(grid, x, 0.5, table=self.table * 2)
        x, grid = self.second(grid, torch.cat([x[:, :1], x[:, 1:]], dim=1), 2.0, table=self.table)
        x = self.stage(self.down(x.transpose(1, 2).unflatten(2, grid)).flatten(2).transpose(1, 2))
        x = self.drop(x).mean(dim=1)
        return {"logits": self.head(x), "early": early.mean() if self.tail else 0}


UNITS = ("stem", "first", "second", "down", "stage.0.0")


@pytest.mark.parametrize("name", TIMM)
def test_units_one_by_one_compute_what_the_network_does(name):
    model = lively(timm.create_model(name, num_classes=5, **TIMM[name]))
    size = TIMM[name].get("img_size", 64)
    before = marks(model)
    with torch.inference_mode():
        chain = find_chain(model, pictures(2, size, seed=1))
        assert len(chain.units) >= 3
        images = pictures(4, size)
        expected = model(images)
        torch.testing.assert_close(piecewise(model, chain, images), expected, rtol=1e-4, atol=1e-5)
        assert (expected[0] - expected[1]).abs().max() > 1e-3  # the output is of the images
    assert marks(model) == before


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("vit_tiny_patch16_224", "patch_embed blocks.0 blocks.1 blocks.2"),
        (
            "swin_tiny_patch4_window7_224",
            "patch_embed layers.0.blocks.0 layers.0.blocks.1 layers.1.downsample layers.1.blocks.0 layers.1.blocks.1 "
            "layers.2.downsample layers.2.blocks.0 layers.3.downsample layers.3.blocks.0",
        ),
        ("cait_xxs24_224", "patch_embed blocks.0 blocks.1"),  # those behind take two tensors
    ],
)
def test_units_are_the_blocks(name, units):
    model = timm.create_model(name, **TIMM[name])
    chain = find_chain(model, pictures(1, TIMM[name]["img_size"]))
    assert chain.units == tuple(units.split())


def test_a_network_of_ones_own():
    model = lively(Toy())
    chain, images = find_chain(model, pictures(1)), pictures(5)
    assert chain.units == UNITS
    assert [part.joined for part in chain.parts] == [False, False, False, False, False]
    assert [part.behind for part in chain.parts] == [(), (), (), (), ("head",)]
    torch.testing.assert_close(piecewise(model, chain, images), model(images), rtol=0, atol=1e-6)
    assert find_chain(model, pictures(4, seed=8)).units == UNITS


def test_what_is_behind_a_unit_starts_anywhere():
    model, images = lively(Toy()), pictures(3)
    chain = find_chain(model, images)
    for unit in UNITS:
        left = run_unit(model, chain, unit, run_to(model, chain, unit, images))
        torch.testing.assert_close(run_from(model, chain, left, unit), model(images), rtol=0, atol=1e-6)


def test_training_networks_run_as_in_evaluation_and_stay_in_training():
    model = lively(Toy()).train()
    before, images = marks(model), pictures(2)
    found = piecewise(model, find_chain(model, images), images)
    assert marks(model) == before
    torch.testing.assert_close(found, model.eval()(images), rtol=0, atol=1e-6)


def test_inputs_stay_as_they_are():
    model = nn.Sequential(nn.Sequential(nn.ReLU(inplace=True), nn.Sequential(nn.Conv2d(3, 3, 1))), nn.Conv2d(3, 3, 1))
    images = pictures(2)
    chain = find_chain(model, images)
    run_unit(model, chain, chain.units[0], images)
    assert torch.equal(images, pictures(2))
    toy = lively(Toy())  # it writes into what its stem gives
    chain, x = find_chain(toy, images), toy.stem(images).detach()
    before = x.clone()
    assert torch.equal(run_between(toy, chain, "stem", x), run_between(toy, chain, "stem", x))
    run_from(toy, chain, x, "stem")
    assert torch.equal(x, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_of_numbers(dtype):
    model, images = lively(Toy()).to(dtype), pictures(2).to(dtype)
    found = piecewise(model, find_chain(model, images), images)["logits"]
    assert found.dtype == dtype
    torch.testing.assert_close(found, model(images)["logits"])


def test_gradients_flow_through_the_rest():
    model, images = lively(Toy()), pictures(2)
    chain = find_chain(model, images)
    x = run_to(model, chain, "second", images).detach().requires_grad_()
    run_from(model, chain, run_unit(model, chain, "second", x), "second")["logits"].sum().backward()
    assert x.grad is not None
    assert x.grad.abs().min() > 0


def test_hooks_of_others_work_once():
    """A hook that scales what enters and what leaves a unit is part of the network."""
    model, images = lively(Toy()), pictures(2)
    chain = find_chain(model, images)
    model.first.register_forward_hook(lambda module, args, output: (output[0] * 3, output[1]))
    model.stem.register_forward_pre_hook(lambda module, args: (args[0] * 3,))
    torch.testing.assert_close(piecewise(model, chain, images), model(images), rtol=0, atol=1e-5)


def test_a_cut_copy_has_a_chain_of_its_own():
    narrow, images = lively(Toy(width=4)), pictures(3)
    units = find_chain(lively(Toy()), images).units
    chain = record_chain(narrow, units, images)
    torch.testing.assert_close(piecewise(narrow, chain, images), narrow(images), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"'first\.fc1' is no unit of this Toy"):
        record_chain(narrow, ["first.fc1"], images)


class Odd(nn.Module):
    """Two layers, with something between that no chain has."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.one, self.two = kind, nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, images):
        x = self.two(self.one(images))
        return {
            "skips": lambda: x + images,
            "counts": lambda: x * len(x),
            "decides": lambda: x if len(images) == 2 else self.two(x),
            "remembers": lambda: x + torch.from_numpy(images.detach().numpy().copy()),
        }[self.kind]()


@pytest.mark.parametrize("kind", ["skips", "decides", "remembers"])
def test_no_chain(kind):
    assert find_chain(lively(Odd(kind)), pictures(2)).units == ()


def test_what_leads_to_the_output_early_ends_the_chain():
    assert find_chain(lively(Toy(tail=True)), pictures(2)).units == ("stem", "first")


def test_a_number_of_images_in_the_exit_is_told():
    model, images = lively(Odd("counts")), pictures(4)
    chain = find_chain(model, images)
    assert chain.units == ("one", "two")
    torch.testing.assert_close(piecewise(model, chain, images), model(images))


def test_muted_writers_add_nothing():
    """x plus what each branch adds is what the block gives; the grouped convolution and the two layers are writers."""
    model, images = lively(Toy()), pictures(2)
    chain, before = find_chain(model, images), marks(model)
    x = run_to(model, chain, "second", images)
    with muted(model, "second", ["conv", "fc2"]):
        torch.testing.assert_close(run_unit(model, chain, "second", x), x, rtol=0, atol=0)
    with muted(model, "second", ["fc2"]):
        mixed = run_unit(model, chain, "second", x)
    conv = model.second.conv(x.transpose(1, 2)).transpose(1, 2)
    torch.testing.assert_close(mixed, x + 2 * conv)
    with muted(model, "second", ["conv", "norm"]):
        found = run_unit(model, chain, "second", x)
    torch.testing.assert_close(found, x + model.second.fc2(torch.relu(model.second.fc1(model.table))))
    assert marks(model) == before


def test_a_muted_layer_need_not_be_called():
    """nn.MultiheadAttention reads the weights of `out_proj`; a norm that is muted gives zeros, so both give zeros."""
    model, images = lively(Toy()), pictures(2)
    chain = find_chain(model, images)
    x = run_to(model, chain, "stage.0.0", images)
    with muted(model, "stage.0.0", ["self_attn.out_proj", "linear2"]):
        found = run_unit(model, chain, "stage.0.0", x)
    layer = model.stage[0][0]
    torch.testing.assert_close(found, layer.norm2(layer.norm1(x)))


class Breaks(nn.Module):
    def forward(self, x):
        raise ArithmeticError("broken")


@pytest.mark.parametrize("place", ["second", "head"])
def test_errors_leave_the_network_as_it_was(place):
    model, images = lively(Toy()).train(), pictures(2)
    chain = find_chain(model, images)
    x = run_to(model, chain, "second", images)
    broken = copy.deepcopy(model)
    if place == "second":
        broken.second.fc2 = Breaks()
    else:
        broken.head = Breaks()
    before = marks(broken)
    for run in (
        lambda: find_chain(broken, images),
        lambda: run_unit(broken, chain, "second", x) if place == "second" else run_from(broken, chain, x, "second"),
        lambda: run_to(broken, chain, "down", images) if place == "second" else broken(images),
    ):
        with pytest.raises(ArithmeticError, match="broken"), muted(broken, "second", ["conv"]):
            run()
        assert marks(broken) == before
