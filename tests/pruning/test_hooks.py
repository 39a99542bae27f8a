import pytest
import torch
from support.moments import batches_of, measured

from prune_realloc.families import family_of
from prune_realloc.pruning.hooks import hooked, masked
from prune_realloc.pruning.moments import GradientWatch, layer_moments
from prune_realloc.pruning.sites import find_sites


def test_masked_gates_are_restored(tiny_vit, images_BCHW):
    before = tiny_vit(images_BCHW)
    site = find_sites(tiny_vit)[0]
    with masked(tiny_vit, site, [0]):
        assert not torch.equal(tiny_vit(images_BCHW), before)
    assert torch.equal(tiny_vit(images_BCHW), before)


def hooks_of(model):
    return [m for m in model.modules() if m._forward_hooks or m._forward_pre_hooks]


def test_hooks_are_gone_afterwards_also_after_an_error(tiny_vit, images_BCHW):
    structure = family_of(tiny_vit).describe(tiny_vit)
    watch = GradientWatch(tiny_vit, structure)
    with watch.attached(()):
        assert len(hooks_of(tiny_vit)) == 9  # qkv, proj, fc1, fc2 of two blocks, head
    with pytest.raises(RuntimeError, match="channels"), watch.attached(()):
        tiny_vit(torch.zeros(2, 5, 32, 32))
    assert not hooks_of(tiny_vit)
    with pytest.raises(AttributeError), hooked(tiny_vit, [("head", "input", print), ("nowhere", "input", print)]):
        pass
    assert not hooks_of(tiny_vit)
    measured(tiny_vit, batches_of(images_BCHW))
    assert not hooks_of(tiny_vit)
    with watch.attached(batches_of(images_BCHW)) as watched:
        for batch in watched:
            tiny_vit(batch.images).sum().backward()
    with pytest.raises(RuntimeError, match="channels"):
        layer_moments(tiny_vit, structure, watch, batches_of(torch.zeros(2, 5, 32, 32)))
    assert not hooks_of(tiny_vit)
