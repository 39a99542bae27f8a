import pytest
from support.variants import old_variant

from prune_realloc.core.cost import KINDS
from prune_realloc.results.variant_rows import component_rows, component_shares, width_rows


@pytest.mark.parametrize("kind", KINDS)
def test_shares_of_components_add_up_to_the_whole(kind):
    shares = component_shares(old_variant(timed=False), kind)
    assert [sum(parts.values()) for parts in shares.values()] == pytest.approx([100, 100])


def test_rows_are_shares_of_each_kind_and_their_difference():
    variant = old_variant(timed=False)
    row = next(row for row in component_rows(variant) if row[0] == "FFN")
    (params_before, params_after), (macs_before, macs_after) = (
        [parts["ffn"] for parts in component_shares(variant, kind).values()] for kind in ("params", "macs")
    )
    assert row == (
        "FFN",
        f"{params_before:.1f} %",
        f"{params_after:.1f} %",
        f"{params_after - params_before:+.1f}",
        f"{macs_before:.1f} %",
        f"{macs_after:.1f} %",
        f"{macs_after - macs_before:+.1f}",
    )


def test_every_width_has_its_reason():
    variant = old_variant(timed=False)
    rows = width_rows(variant)
    assert [row[0] for row in rows] == list(variant.network.widths)
    assert all(len(row) == 4 and row[3] for row in rows)
