import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_realloc.core.structure import AXES, INNER_AXES, Site, Stream, site_beside, site_name, site_nth, site_place

numbers = st.integers(0, 120)


@pytest.mark.parametrize(
    ("name", "axis", "block", "nth"),
    [
        ("embed", "embed", None, 0),
        ("embed.2", "embed", None, 2),
        ("stages.1.embed", "embed", None, 0),
        ("stages.1.embed.1", "embed", None, 1),
        ("blocks.3", "block", 3, 0),
        ("blocks.3.ffn", "ffn", 3, 0),
        ("blocks.3.ffn.1", "ffn", 3, 1),
        ("blocks.12.hidden.10", "hidden", 12, 10),
    ],
)
def test_names_say_axis_block_and_number(name, axis, block, nth):
    assert (site_place(name), site_nth(name)) == ((axis, block), nth)


@given(axis=st.sampled_from([axis for axis in AXES if axis != "block"]), block=numbers, nth=numbers)
def test_names_inside_blocks_come_back(axis, block, nth):
    name = site_name(axis, block, nth=nth)
    assert (site_place(name), site_nth(name)) == ((axis, block), nth)
    assert Site(axis, block, 1, (), (), nth=nth).name == name


@given(stage=st.none() | numbers, nth=numbers)
def test_names_of_streams_come_back(stage, nth):
    name = site_name("embed", None, stage, nth)
    assert (site_place(name), site_nth(name)) == (("embed", None), nth)
    assert (
        Stream(("stem.weight", 0), (), stage, nth=nth).site
        == name
        == Site("embed", None, 1, (), (), 1, "", stage, nth=nth).name
    )


def test_different_sites_have_different_names():
    places = [
        (axis, block, None, nth) for axis in AXES if axis != "block" for block in (0, 1, 11) for nth in (0, 1, 11)
    ]
    places += [("block", block, None, 0) for block in (0, 1, 11)]
    places += [("embed", None, stage, nth) for stage in (None, 0, 1, 11) for nth in (0, 1, 11)]
    assert len({site_name(*place) for place in places}) == len(places)


def test_heads_belong_to_the_attention_of_the_same_number():
    assert site_beside("blocks.3.qk", "heads") == "blocks.3.heads"
    assert site_beside("blocks.3.v.1", "heads") == "blocks.3.heads.1"


def test_hidden_is_an_axis_inside_blocks_behind_those_that_were():
    assert AXES[:-1] == ("embed", "block", "heads", "qk", "v", "ffn")
    assert (*INNER_AXES[:-1], AXES[-1]) == ("qk", "v", "ffn", "hidden")
