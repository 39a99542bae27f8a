"""The configuration alone: what it refuses, what it fills in, and how it is written down."""

import pytest

from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit_config import EfficientVitConfig


def test_what_is_not_said_is_the_stock_classs():
    config = EfficientVitConfig(embed_dim=[64, 128, 192])
    assert [block.v for block in config.blocks] == [16, 32, 32, 48, 48, 48]
    assert [block.ffn for block in config.blocks] == [128, 256, 256, 384, 384, 384]
    assert [(m.hidden, m.squeeze, m.ffn_in, m.ffn_out) for m in config.merges] == [
        (256, 64, 128, 256),
        (512, 128, 256, 384),
    ]
    assert config.stem_dims == (8, 16, 32, 64)
    assert config.resolutions == ((14, 14), (7, 7), (4, 4))
    assert [block.window for block in config.blocks] == [7, 7, 7, 4, 4, 4]


def test_values_per_stage_and_per_block():
    config = EfficientVitConfig(qk_dim=[8, [8, 24], 16], kernels=[[3] * 4, [5] * 4, [[7] * 4, [3] * 4, [1] * 4]])
    assert [block.qk for block in config.blocks] == [8, 8, 24, 16, 16, 16]
    assert [block.kernels[0] for block in config.blocks] == [3, 5, 5, 7, 3, 1]


def test_arguments_are_short_and_say_everything():
    config = EfficientVitConfig(img_size=28, stem_strides=[2, 2], qk_dim=[8, [8, 24], 16], num_classes=10)
    assert config.args() == {
        "img_size": 28,
        "num_classes": 10,
        "stem_strides": [2, 2],
        "embed_dim": [64, 128, 192],
        "depth": [1, 2, 3],
        "qk_dim": [8, [8, 24], 16],
    }
    assert EfficientVitConfig(**config.args()) == config


@pytest.mark.parametrize(
    ("args", "words"),
    [
        # timm builds the next two with value widths 119 and 46 and fails in the first forward pass
        ({"embed_dim": [240, 240, 240], "qk_dim": 44, "num_heads": 2}, None),
        ({"embed_dim": [72, 72, 72], "qk_dim": 47, "num_heads": 3}, None),
        ({"embed_dim": [64, 126, 192]}, "embed_dim 126 of stage 1 is not a multiple of num_heads 4; take 124 or 128"),
        ({"embed_dim": [4, 64, 64]}, "embed_dim 4 of the first stage is too narrow .* take at least 8"),
        ({"kernels": [3, 3]}, "kernels .* are fewer than num_heads 4"),
        ({"kernels": [3, 4, 3, 3]}, "4 is even; take odd sides"),
        ({"depth": [1, 2]}, r"depth \[1, 2\] must have one number for each of the 3 stages"),
        ({"depth": [1, 0, 2]}, "depth must be a whole number of at least 1, got 0"),
        ({"qk_dim": [16, 16]}, "qk_dim has 2 entries, embed_dim has 3 stages"),
        ({"qk_dim": [16, [16, 16, 16], 16]}, "qk_dim of stage 1 has 3 entries, the stage 2 block"),
        ({"v_dim": 16.0}, "v_dim must be a whole number, or a list with one for each stage, got 16.0"),
        ({"v_dim": [0, 8, 8]}, "v_dim of stage 0 must be a whole number of at least 1, got 0"),
        ({"stem_strides": [2, 3]}, "stem_strides .* must be a list of 1 and 2"),
        ({"stem_strides": []}, "stem_strides .* must be a list of 1 and 2"),
        ({"img_size": [28, 28, 3]}, r"img_size \[28, 28, 3\] is neither"),
        ({"img_size": 0}, "img_size must be a whole number of at least 1"),
        ({"num_classes": True}, "num_classes must be a whole number"),
        ({"merge_dim": [256]}, "merge_dim has 1 entries; give one for each of the 2 patch merging"),
        ({"merge_ffn_dim": [[64], [64]]}, r"merge_ffn_dim must have pairs"),
        ({"distillation": 1}, "distillation must be true or false"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(args, words):
    if words is None:
        config = EfficientVitConfig(**args)
        assert {block.v for block in config.blocks} == {config.embed_dim[0] // config.blocks[0].heads}
        return
    with pytest.raises(InputError, match=words):
        EfficientVitConfig(**args)
