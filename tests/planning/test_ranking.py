import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.toy_analysis import make_toy_analysis

from prune_realloc.core.errors import InputError
from prune_realloc.planning.ranking import retention


def test_retention_by_hand():
    # per unit: qk 320/4 = 80 MACs, v 160/4 = 40, ffn 320/4 = 80; in all 800
    # worth: ffn .1125, qk .1, v .1 .1 .1, qk .075, ffn .0375, qk .0125, qk .00625, ffn .0025 .00125, v -.025
    kept = retention(make_toy_analysis(), keep_macs=0.35)  # 280: ffn 80, qk 80, three v
    assert kept == {"blocks.0.qk": 0.25, "blocks.0.v": 0.75, "blocks.0.ffn": 0.25}
    assert set(retention(make_toy_analysis(), 1.0).values()) == {1.0}
    for budget in (0, 1.5, -1, float("nan")):
        with pytest.raises(InputError, match="keep_macs"):
            retention(make_toy_analysis(), budget)


@given(st.floats(0.05, 1), st.floats(0.05, 1))
def test_a_larger_budget_keeps_no_less(a, b):
    small, large = (retention(make_toy_analysis(), budget) for budget in sorted((a, b)))
    assert all(small[name] <= large[name] for name in small)
