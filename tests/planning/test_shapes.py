"""What lies outside the blocks."""

from prune_realloc.planning.shapes import stem_strides, window


def test_stem_strides_suit_the_image():
    assert stem_strides(224) == (2, 2, 2, 2)
    assert stem_strides(64) == (2, 2)
    assert stem_strides(28) == (2, 1)
    assert stem_strides(14) == (1, 1)


def test_windows_fill_the_feature_map():
    assert [window(side) for side in (14, 7, 4, 1, 28)] == [7, 7, 4, 1, 7]  # as in the paper
    assert [window(side) for side in (16, 8, 10, 20)] == [8, 8, 10, 7]
