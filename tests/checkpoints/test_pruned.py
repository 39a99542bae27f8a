"""Pruned networks on disk: they come back equal, here and in timm."""

import copy
import json
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from support.networks import VARIANTS, build
from timm.utils import ModelEmaV3

from prune_realloc import find_sites, load_model, load_pruned, save_pruned
from prune_realloc.checkpoints import folders
from prune_realloc.checkpoints.shards import content_of
from prune_realloc.core.errors import InputError
from prune_realloc.pruning.cut import cut, cut_to_widths
from prune_realloc.pruning.sites import widths


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The shipped ViT with half of Q/K, V and FFN, and its folder."""
    folder, net = tmp_path_factory.mktemp("pruned"), load_model()
    half = {s.name: s.width // 2 if s.axis in ("qk", "v", "ffn") else s.width for s in find_sites(net)}
    network = cut_to_widths(net, half)
    save_pruned(network, folder)
    return network, folder


def test_keeping_everything_returns_the_same_function(images_BCHW):
    model = build()
    same = cut_to_widths(model, widths(find_sites(model)))
    assert torch.equal(same(images_BCHW), model(images_BCHW))


def narrow(model):
    """Every site a little narrower, the last block gone."""
    last = len(model.blocks) - 1
    return {s.name: 0 if s.block == last else max(1, s.width - (s.axis != "block")) for s in find_sites(model)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_layout_comes_back_equal(variant, tmp_path, images_BCHW):
    model = build(variant, depth=3)
    smaller = cut_to_widths(model, narrow(model))
    save_pruned(smaller, tmp_path)
    for loaded in (load_pruned(tmp_path), timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()):
        assert torch.equal(loaded(images_BCHW), smaller(images_BCHW))
        assert loaded.state_dict().keys() == smaller.state_dict().keys()


def test_a_fresh_process_needs_only_the_folder(saved):
    network, folder = saved
    images = torch.linspace(-1, 1, 2 * 28 * 28).reshape(2, 1, 28, 28)
    probe = f"""
import torch, timm, prune_realloc
net = timm.create_model("local-dir:{folder}", pretrained=True).eval()
images = torch.linspace(-1, 1, 2 * 28 * 28).reshape(2, 1, 28, 28)
print(net(images).tolist())
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", probe], capture_output=True, text=True, check=True)
    assert torch.allclose(torch.tensor(json.loads(out.stdout)), network(images), atol=1e-5)


def test_what_timm_does_with_networks_works(saved, tmp_path):
    _, folder = saved
    images = torch.randn(2, 1, 28, 28)
    net = load_pruned(folder)
    features = timm.create_model(f"local-dir:{folder}", pretrained=True, features_only=True)
    assert [tuple(f.shape) for f in features(images)] == [(2, 64, 7, 7)] * 3
    final, intermediates = net.forward_intermediates(images, indices=[0, 11])
    assert len(intermediates) == 2
    torch.testing.assert_close(net.forward_head(final), net(images))
    assert timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=3)(images).shape == (2, 3)
    twin = copy.deepcopy(net)
    ema = ModelEmaV3(twin)
    ema.update(twin)
    net.train()(images).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    program = torch.export.export(net.eval(), (images,))
    torch.testing.assert_close(program.module()(images), net(images), atol=1e-5, rtol=1e-4)
    net.reset_classifier(7)
    save_pruned(net, tmp_path)
    assert load_pruned(tmp_path)(images).shape == (2, 7)


@pytest.mark.slow
def test_a_pruned_network_compiles(saved):
    _, folder = saved
    net, images = load_pruned(folder), torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(torch.compile(net)(images), net(images), atol=1e-5, rtol=1e-4)


def test_networks_of_timm_itself_are_saved_too(tmp_path):
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, num_classes=3).eval()
    save_pruned(net, tmp_path)
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(load_pruned(tmp_path)(images), net(images))


def test_damaged_folders_are_refused(saved, tmp_path):
    _, folder = saved
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"]["widths"]["blocks.0.ffn"] -= 8
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"mlp\.fc1"):
        load_pruned(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"none of model\.safetensors"):
        load_pruned(tmp_path)
    with pytest.raises(InputError, match="no pruned network"):
        load_pruned(load_model.__globals__["DEMO"])


def test_a_pruned_network_is_not_told_what_it_is(saved):
    with pytest.raises(InputError, match="is pruned, and says itself what it is"):
        load_model("deit_tiny_patch16_224", ckpt=saved[1])


def test_a_folder_is_read_once(saved, monkeypatch):
    _, folder = saved
    read = []

    def counted(path):
        read.append(path.name)
        return content_of(path)

    monkeypatch.setattr(folders, "content_of", counted)
    state = torch.random.get_rng_state()
    assert not load_pruned(folder).training
    assert read == ["model.safetensors"]
    assert torch.equal(torch.random.get_rng_state(), state)


def test_timm_knows_pruned_networks_even_after_others_looked_for_it(saved):
    _, folder = saved
    probe = f"""
import importlib.util, prune_realloc
importlib.util.find_spec("timm")
import timm
print(type(timm.create_model("local-dir:{folder}", pretrained=True)).__name__)
"""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", probe], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "VisionTransformer"


def test_a_full_disk_leaves_the_old_network_whole(saved, tmp_path, monkeypatch):
    network, folder = saved
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    real, calls = __import__("os").fdopen, []

    def full(*args, **kwargs):
        calls.append(args)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr("os.fdopen", full)
    with pytest.raises(InputError, match="No space left on device"):
        save_pruned(network, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("pit_ti_224", {"depth": (1, 1, 1)}),  # a site of what was cut has another name than in the source
        ("hiera_tiny_224", {"stages": (1, 1, 1, 1)}),  # its tensors have the names of a ViT's
        ("efficientvit_m0", {"depth": (1, 1, 1)}),  # of timm's class, not of ours
    ],
)
def test_what_was_traced_and_cut_twice_comes_back(name, args, tmp_path):
    net = timm.create_model(name, num_classes=5, **args).eval()
    net.origin = {"source": name, "source_args": {"num_classes": 5, **args}}
    for axes in (("ffn", "hidden"), ("heads", "embed")):
        sites = find_sites(net)
        net = cut(net, sites, {s.name: np.arange(0, s.units, 2) for s in sites if s.axis in axes and s.units > 1})
    save_pruned(net, tmp_path)
    images = torch.randn(2, 3, 224, 224)
    assert torch.equal(load_pruned(tmp_path)(images), net(images))


def test_channels_of_the_images_and_no_classes_come_back(tmp_path):
    args = {"depth": 1, "num_classes": 0, "in_chans": 1}
    net = timm.create_model("eva02_tiny_patch14_224", **args).eval()
    net.origin = {"source": "eva02_tiny_patch14_224", "source_args": args}
    save_pruned(net, tmp_path)
    images = torch.randn(1, 1, 224, 224)
    assert torch.equal(load_pruned(tmp_path)(images), net(images))
