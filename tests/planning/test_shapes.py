"""What lies outside the blocks."""

from support.pruned import EVEN

from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.planning.reallocate import reallocate
from prune_realloc.planning.shapes import outside_blocks, stem_strides, window
from prune_realloc.recipe.target import Target


def test_stem_strides_suit_the_image():
    assert stem_strides(224) == (2, 2, 2, 2)
    assert stem_strides(64) == (2, 2)
    assert stem_strides(28) == (2, 1)
    assert stem_strides(14) == (1, 1)


def test_windows_fill_the_feature_map():
    assert [window(side) for side in (14, 7, 4, 1, 28)] == [7, 7, 4, 1, 7]  # as in the paper
    assert [window(side) for side in (16, 8, 10, 20)] == [8, 8, 10, 7]


def test_images_need_not_be_square():
    square, wide = outside_blocks(Target(img_size=64)), outside_blocks(Target(img_size=(64, 64)))
    assert square | {"img_size": (64, 64)} == wide
    network = reallocate(EVEN, Target(img_size=(96, 48), num_classes=10))
    config = EfficientVitConfig(**network.args)
    assert config.input_size == (3, 96, 48)
    assert EfficientVitConfig(**network.control_args).input_size == (3, 96, 48)
    assert config.resolutions[0] == (24, 12)  # stem of stride 4, as for 68 x 68
    assert config.blocks[0].window <= 12
