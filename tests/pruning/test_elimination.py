import numpy as np
import pytest
import torch

from prune_realloc.pruning.elimination import Elimination, eliminate, ridged
from prune_realloc.pruning.moments import LinearMoments


def test_ridge_by_hand():
    covariance = torch.tensor([[3.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    mean = torch.tensor([1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(ridged(covariance, mean, 0.5), torch.tensor([[4.0, 1.0], [1.0, 2.0]]).double())
    # inputs that never change, and what rounding makes of that
    for noise in (0.0, 1e-16, -1e-16):
        assert torch.linalg.eigvalsh(ridged(torch.full((2, 2), noise).double(), 30 * mean)).min() > 1e-11
    assert torch.linalg.inv(ridged(torch.zeros(2, 2).double(), 0 * mean)).isfinite().all()


def regression_damage(weight, read, kept):
    """N / 2 tr(G E C E') of the best weights on the inputs `kept`, by the normal equations."""
    covariance = ridged(read.covariance, read.mean)
    best = torch.linalg.solve(covariance[kept][:, kept], covariance[kept] @ weight.T).T
    off = weight.clone()
    off[:, kept] -= best
    return float(read.tokens / 2 * (read.gradient @ off @ covariance * off).sum())


@pytest.mark.parametrize("groups", [1, 2])
def test_units_of_several_columns_go_with_all_of_them(groups):
    """The cheapest first, each costing what a refit of the rest leaves; columns of no unit stay."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(60, 20, generator=generator, dtype=torch.float64) + 1
    weight, root = (torch.randn(5, n, generator=generator, dtype=torch.float64) for n in (20, 5))
    read = LinearMoments(7, torch.ones(7), root @ root.T, rows.mean(0), torch.cov(rows.T, correction=0))
    columns = torch.randperm(20, generator=generator)[:18].reshape(6, 3)
    free = sorted(set(range(20)) - set(columns.flatten().tolist()))
    curve = eliminate([Elimination(weight, read, columns)], groups, 6 // groups)

    def damage(units):
        return regression_damage(weight, read, torch.tensor(sorted([*free, *columns[list(units)].flatten().tolist()])))

    left = set(range(6))
    for width in reversed(range(6 // groups)):
        alone = {unit: damage(left - {unit}) for unit in left}
        gone = {min((u for u in left if u * groups // 6 == g), key=alone.__getitem__) for g in range(groups)}
        assert set((curve.order[:, width] + np.arange(groups) * (6 // groups)).tolist()) == gone
        left -= gone
        assert curve.damage[width] == pytest.approx(damage(left), rel=1e-9)
