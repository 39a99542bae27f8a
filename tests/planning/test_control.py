"""The uniform network of equal cost."""

import pytest
from support.pruned import papers, source

from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.planning.reallocate import reallocate
from prune_realloc.recipe.target import Target


@pytest.mark.parametrize("like", SIZES)
def test_the_control_is_uniform(like):
    control = EfficientVitConfig(**reallocate(source(papers), Target(like=like)).control_args)
    ratios = [block.ffn / block.embed for block in control.blocks]
    assert max(ratios) - min(ratios) < 0.1  # one ratio, but for multiples of 8
    assert 3 < ratios[0] < 5
    for block in control.blocks:
        assert block.qk == block.v == block.embed // block.heads
    for before, after in zip(control.embed_dim[:-1], control.embed_dim[1:], strict=True):
        assert after == pytest.approx(2 * before, abs=24)
