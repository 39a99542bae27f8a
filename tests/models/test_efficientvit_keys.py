"""Names of the original's and of timm's checkpoints."""

import timm
import torch
from support.efficientvit import as_original, images, randomise_

from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.models.efficientvit_keys import to_flex_keys


def test_the_originals_checkpoints_load_strictly_with_both_classifiers():
    stock = randomise_(timm.create_model("efficientvit_m0"))
    original = as_original(stock.state_dict())
    assert any(name.endswith("attention_bias_idxs") for name in original)
    assert original["blocks1.0.ffn0.m.pw1.c.weight"].ndim == 2
    ours = EfficientVit(EfficientVitConfig(distillation=True)).eval()
    ours.load_state_dict(to_flex_keys(original))
    x = images(size=224)
    with torch.no_grad():
        torch.testing.assert_close(ours.head(ours.forward_head(ours.forward_features(x), pre_logits=True)), stock(x))
        both = ours.train()(x)
    assert isinstance(both, tuple)
    assert [out.shape for out in both] == [(2, 1000), (2, 1000)]
