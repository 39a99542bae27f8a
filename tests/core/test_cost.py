import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.toy_analysis import TERMS, WIDTHS

from prune_realloc.core.cost import Cost, component_costs, total_cost, unit_cost


def test_cost_by_hand():
    # qk 4*2*2 = 16, v 16, ffn 16 combinations
    assert total_cost(TERMS, WIDTHS) == Cost(params=32 + 16 + 32 + 7, macs=320 + 160 + 320 + 5)
    assert component_costs(TERMS, WIDTHS)["v"] == Cost(params=16, macs=160)
    assert unit_cost(TERMS, WIDTHS, "blocks.0.ffn", "macs") == 80
    assert unit_cost(TERMS, WIDTHS, "blocks.0.heads", "macs") == (320 + 160) / 2


@given(st.sampled_from(sorted(WIDTHS)), st.integers(1, 9))
def test_a_unit_saves_what_the_formula_says(site, less):
    narrower = WIDTHS | {site: WIDTHS[site] + less}
    saved = total_cost(TERMS, narrower).macs - total_cost(TERMS, WIDTHS).macs
    assert saved == pytest.approx(less * unit_cost(TERMS, WIDTHS, site, "macs"))
