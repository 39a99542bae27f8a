import torch

from prune_realloc.pruning.elimination import ridged


def test_ridge_by_hand():
    covariance = torch.tensor([[3.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    mean = torch.tensor([1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(ridged(covariance, mean, 0.5), torch.tensor([[4.0, 1.0], [1.0, 2.0]]).double())
    # inputs that never change, and what rounding makes of that
    for noise in (0.0, 1e-16, -1e-16):
        assert torch.linalg.eigvalsh(ridged(torch.full((2, 2), noise).double(), 30 * mean)).min() > 1e-11
    assert torch.linalg.inv(ridged(torch.zeros(2, 2).double(), 0 * mean)).isfinite().all()
