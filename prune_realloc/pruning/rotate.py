"""Changes of basis before a cut that leave the function as it is.

Q and K of a head matter only through Q K', V and proj only through their product, so each pair can be put into another
basis. With S the second moment of the activations and O that of the loss gradient at them, the basis in which both are
diagonal sorts the units by what they carry (balanced truncation, Moore, IEEE TAC 1981).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from prune_realloc.core.structure import Pair, Slice, Structure
from prune_realloc.families.host import inner_of, sharing
from prune_realloc.pruning.elimination import ridged
from prune_realloc.pruning.moments import LayerMoments, LinearMoments, LogitMoments

_BASIS_RIDGE = 1e-4
"""Keeps the change of basis well-conditioned; any value leaves the function as it is."""


Basis = tuple[Tensor, Tensor]
"""What the two sides of a pair were multiplied by: units x -> A x on the left, A^-T r on the right; each (H, K, K)."""


@dataclass(frozen=True)
class Rotated:
    """A network whose pairs are in another basis."""

    network: nn.Module
    """The same function."""
    moments: LayerMoments
    """Those that would be measured on it."""
    bases: Mapping[str, Basis]
    """Site of each pair -> the basis that its units are in now."""


def rotated(model: nn.Module, structure: Structure, moments: LayerMoments) -> Rotated:
    """A copy of `model` with the same function, each pair in the basis that sorts its units; what is in no pair lies in
    the memory of `model`."""
    inner = inner_of(model)
    turned = [inner.get_parameter(part.parameter) for pair in structure.pairs for part in (*pair.left, *pair.right)]
    whole = sharing(model, turned)
    network, bases = inner_of(whole), {}
    writers, logits = dict(moments.writers), dict(moments.logits)
    with torch.no_grad():
        for pair in structure.pairs:
            if pair.site in logits:
                left, right = _scaled_alike(network, pair, *_logit_basis(logits[pair.site]))
                logits[pair.site] = _rotated_logits(logits[pair.site], left, right)
            else:
                left, right = _value_basis(network, pair, writers[pair.site])
                writers[pair.site] = _rotated_units(writers[pair.site], left)
            bases[pair.site] = (left, right)
            for parts, matrix in ((pair.left, left), (pair.right, right)):
                for part in parts:
                    _apply_(network, part, matrix)
    return Rotated(whole, LayerMoments(writers, moments.readers, logits), bases)


def _logit_basis(moments: LogitMoments) -> tuple[Tensor, Tensor]:
    """A for q and A^-T for k, each (H, K, K)."""
    bases = [
        _balance(ridged(activation, torch.zeros_like(activation[0]), _BASIS_RIDGE), gradient)
        for activation, gradient in zip(moments.activation, moments.gradient, strict=True)
    ]
    return torch.stack([inverse for _, inverse in bases]), torch.stack([basis.T for basis, _ in bases])


def _value_basis(model: nn.Module, pair: Pair, moments: LinearMoments) -> tuple[Tensor, Tensor]:
    """An orthogonal A (H, K, K), twice: proj is refitted, so of a basis only the nested spans of its rows matter."""
    [reader] = pair.right
    columns = model.get_parameter(reader.parameter).detach().flatten(1).double()  # a convolution's has two more dims
    found = []
    for rows in reader.index[:, 0].reshape(pair.groups, -1):
        index = torch.as_tensor(rows, device=columns.device)
        observed = columns[:, index].T @ moments.gradient @ columns[:, index]
        _, inverse = _balance(ridged(moments.covariance[index][:, index], moments.mean[index], _BASIS_RIDGE), observed)
        found.append(torch.linalg.qr(inverse.T).Q.T)
    both = torch.stack(found)
    return both, both


def _balance(S: Tensor, O: Tensor) -> tuple[Tensor, Tensor]:  # noqa: E741 (the field's letter)
    """T and T^-1 (K, K) such that T^-1 S T^-T = 1 and T' O T is diagonal, largest first."""
    lower = torch.linalg.cholesky(S)
    vectors = torch.linalg.eigh(lower.T @ O @ lower).eigenvectors.flip(1)
    return lower @ vectors, torch.linalg.solve_triangular(lower.T, vectors, upper=True).T


def _scaled_alike(model: nn.Module, pair: Pair, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each unit so that its rows in q and k are of one size: the product stays, the numbers are tame."""
    sizes = []
    for parts, matrix in ((pair.left, left), (pair.right, right)):
        weight = model.get_parameter(parts[0].parameter).detach().flatten(1).double()
        rows = weight[torch.as_tensor(parts[0].index[:, 0], device=weight.device)].unflatten(0, matrix.shape[:2])
        sizes.append((matrix @ rows).norm(dim=2).clamp(min=torch.finfo(torch.float32).tiny))
    scale = (sizes[1] / sizes[0]).sqrt()[..., None]
    return left * scale, right / scale


def _apply_(model: nn.Module, part: Slice, matrix: Tensor) -> None:
    """Multiply the numbers of each group's units, in place, by that group's matrix; shape (H, K, K)."""
    parameter = model.get_parameter(part.parameter)
    moved = parameter.data.movedim(part.dim, 0)
    index = torch.as_tensor(part.index[:, 0], device=parameter.device)
    units = moved[index].double()
    mixed = matrix @ units.reshape(*matrix.shape[:2], -1)
    moved[index] = mixed.reshape(units.shape).to(moved.dtype)


def _rotated_logits(moments: LogitMoments, left: Tensor, right: Tensor) -> LogitMoments:
    """The moments that would be measured on the network in the new basis."""
    return LogitMoments(moments.tokens, left @ moments.activation @ left.mT, right @ moments.gradient @ right.mT)


def _rotated_units(moments: LinearMoments, basis: Tensor) -> LinearMoments:
    """The same for what a writer reads; `basis` has one matrix for each group, shape (H, K, K)."""
    whole = torch.block_diag(*basis)
    return LinearMoments(
        moments.tokens, moments.weight, moments.gradient, whole @ moments.mean, whole @ moments.covariance @ whole.T
    )
