"""Swin on disk: by its names, its tensors, other libraries' layouts; and cut, with blocks gone."""

import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from support.networks import randomise_
from support.swin import SWIN, SWINS, pictures, swin
from timm.models.swin_transformer import checkpoint_filter_fn
from torchvision.models.swin_transformer import SwinTransformer as TorchvisionSwin
from transformers import SwinConfig, SwinForImageClassification

from prune_realloc import find_sites, load_model, load_pruned, save_pruned
from prune_realloc.core.errors import InputError
from prune_realloc.pruning.cut import cut, cut_to_widths
from prune_realloc.pruning.sites import widths


def narrowed(net, gone=()):
    """Every site a little narrower, some blocks gone."""
    steps = {"block": 0}
    return cut_to_widths(
        net, {s.name: 0 if s.block in gone else max(1, s.width - steps.get(s.axis, 1)) for s in find_sites(net)}
    )


@pytest.mark.parametrize("layout", SWINS)
@pytest.mark.parametrize("gone", [(), (0,), (1, 4), (2, 3, 5)], ids=str)
def test_a_cut_network_comes_back_equal(layout, gone, tmp_path):
    """The windows of the blocks that are left are shifted as before, whichever went."""
    net = swin(layout, depths=(3, 3))
    smaller, images = narrowed(net, gone), pictures(net)
    save_pruned(smaller, tmp_path)
    for loaded in (load_pruned(tmp_path), timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()):
        assert torch.equal(loaded(images), smaller(images))
        assert loaded.state_dict().keys() == smaller.state_dict().keys()
        assert [block.shift_size for stage in loaded.layers for block in stage.blocks] == [
            block.shift_size for stage in smaller.layers for block in stage.blocks
        ]


def test_what_was_loaded_is_cut_and_saved_again(tmp_path):
    net = swin(depths=(3, 3))
    save_pruned(narrowed(net, (0, 4)), tmp_path)
    again = load_pruned(tmp_path)
    twice = cut(again, find_sites(again), {"blocks.1": np.arange(0), "blocks.0.qk": np.arange(0, 10, 2)})
    save_pruned(twice, tmp_path)
    loaded = load_pruned(tmp_path)
    assert torch.equal(loaded(pictures(net)), twice(pictures(net)))
    assert [any(block.shift_size) for stage in loaded.layers for block in stage.blocks] == [True, False, False]


def test_another_input_size_is_saved_too(tmp_path):
    smaller = narrowed(swin(), (1,))
    smaller.set_input_size((48, 64))
    save_pruned(smaller, tmp_path)
    assert torch.equal(load_pruned(tmp_path)(pictures(smaller)), smaller(pictures(smaller)))


def test_a_fresh_process_needs_only_the_folder(tmp_path):
    smaller = narrowed(swin(), (0,))
    save_pruned(smaller, tmp_path)
    probe = f"""
import torch, timm, prune_realloc
net = timm.create_model("local-dir:{tmp_path}", pretrained=True).eval()
print(net(torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32)).tolist())
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", probe], capture_output=True, text=True, check=True)
    expected = smaller(torch.linspace(-1, 1, 2 * 3 * 32 * 32).reshape(2, 3, 32, 32))
    assert torch.allclose(torch.tensor(json.loads(out.stdout)), expected, atol=1e-5)


def test_what_timm_does_with_networks_works(tmp_path):
    smaller, images = narrowed(swin(), (0,)), torch.randn(2, 3, 32, 32)
    save_pruned(smaller, tmp_path)
    features = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True, out_indices=(0, 1))
    assert [tuple(f.shape) for f in features(images)] == [(2, 23, 16, 16), (2, 47, 8, 8)]
    assert timm.create_model(f"local-dir:{tmp_path}", pretrained=True, num_classes=3)(images).shape == (2, 3)
    net = load_pruned(tmp_path)
    net.train()(images).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    net.reset_classifier(7)
    save_pruned(net, tmp_path)
    assert load_pruned(tmp_path)(images).shape == (2, 7)


@pytest.mark.parametrize("blocks", [[0, 1, 2], [1, 0, 2, 3], [0, 1, 2, 9], [-1, 0, 1, 2], [0, 0, 1, 2], ["0", 1, 2, 3]])
def test_blocks_that_are_not_the_sources_are_refused(blocks, tmp_path):
    save_pruned(narrowed(swin()), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["blocks"] = blocks
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"blocks .* are not 4 of the 4 blocks of the source") as refusal:
        load_pruned(tmp_path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "swin_s3_tiny_224"])
@pytest.mark.parametrize("size", [None, 256, 112])
def test_published_sizes_are_told_by_their_tensors(name, size, tmp_path):
    torch.save({"model": (net := timm.create_model(name, num_classes=3).eval()).state_dict()}, tmp_path / "net.pth")
    found = load_model(ckpt=tmp_path / "net.pth", img_size=size)
    assert found.taken["architecture"].value == name
    images = torch.randn(1, 3, size or 224, size or 224)
    if size == 256:  # windows stay as they are and are filled up, as timm builds it
        net = timm.create_model(name, num_classes=3, img_size=256).eval()
        net.load_state_dict(torch.load(tmp_path / "net.pth")["model"])
    if size != 112:
        assert torch.equal(found(images), net(images))
    else:  # the last map is smaller than a window
        assert found.layers[3].blocks[0].window_size == (4, 4)
    save_pruned(found, tmp_path / "saved")
    assert torch.equal(load_pruned(tmp_path / "saved")(images), found(images))


def as_authors(state):
    """Patch merging at the end of a stage, the classifier without a name of its own, buffers beside the weights."""
    renamed = {name.replace("head.fc", "head"): tensor for name, tensor in state.items()}
    return {name.replace("layers.1.downsample", "layers.0.downsample"): tensor for name, tensor in renamed.items()}


def test_the_authors_own_files_are_read_by_timms_name_and_without(tmp_path):
    net = swin(img_size=32)
    state = as_authors(net.state_dict())
    assert checkpoint_filter_fn(dict(state), net).keys() == net.state_dict().keys()
    torch.save({"model": state}, tmp_path / "net.pth")
    found = load_model(ckpt=tmp_path / "net.pth", img_size=32)
    images = pictures(net)
    with torch.no_grad():
        torch.testing.assert_close(found(images), net(images), atol=1e-5, rtol=1e-5)
    smaller = narrowed(found, (1,))
    save_pruned(smaller, tmp_path / "saved")
    assert torch.equal(load_pruned(tmp_path / "saved")(images), smaller(images))


def theirs(kind, folder):
    """A network of another library as it saves it, and its logits of a picture."""
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    if kind == "torchvision":
        net = randomise_(
            TorchvisionSwin(
                patch_size=[4, 4], embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=[4, 4], num_classes=5
            )
        )
        torch.save(net.state_dict(), folder / "net.pth")
        return folder / "net.pth", images, net(images)
    sizes = {"image_size": 64, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
    net = randomise_(SwinForImageClassification(SwinConfig(**sizes, layer_norm_eps=1e-6, num_labels=5)))
    net.save_pretrained(folder)
    return folder, images, net(images).logits


@pytest.mark.parametrize("kind", ["torchvision", "Hugging Face"])
def test_files_of_other_libraries_are_cut_and_saved(kind, tmp_path):
    """Epsilons of norms go along: timm's Swin takes none as an argument."""
    with torch.no_grad():
        path, images, expected = theirs(kind, tmp_path)
        found = load_model(ckpt=path, img_size=64)
        torch.testing.assert_close(found(images), expected, atol=1e-4, rtol=1e-4)
        smaller = narrowed(found, (1,))
        save_pruned(smaller, tmp_path / "saved")
        assert torch.equal(load_pruned(tmp_path / "saved")(images), smaller(images))


def test_a_network_of_no_published_size_needs_its_name(tmp_path):
    net = swin()
    torch.save(net.state_dict(), tmp_path / "net.pth")
    args = {"embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4]}
    found = load_model(SWIN, ckpt=tmp_path / "net.pth", img_size=32, model_args=args)
    assert torch.equal(found(pictures(net)), net(pictures(net)))
    with pytest.raises(InputError, match="no timm model has its shape") as refusal:
        load_model(ckpt=tmp_path / "net.pth")
    assert "\n" not in str(refusal.value)
    assert widths(find_sites(found)) == widths(find_sites(net))
