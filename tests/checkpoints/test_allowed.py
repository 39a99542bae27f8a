"""Files describe architectures; no door leads from them to code, a path or an address."""

import argparse
import json
import shutil
import socket
import urllib.request

import pytest
import timm
import torch
from support.checkpoints import DEIT, Hostile, make_deit, saved
from support.networks import build

from prune_realloc import load_pruned, save_pruned
from prune_realloc.checkpoints import create
from prune_realloc.checkpoints.allowed import descriptive, require_architecture_args
from prune_realloc.checkpoints.load import DEMO, load_model, new_model
from prune_realloc.core.errors import InputError


@pytest.fixture(autouse=True)
def closed(monkeypatch, tmp_path):
    """A pickle that would leave a mark, read as older timm reads `checkpoint_path`, and a network that nobody calls."""
    trap = saved(tmp_path / "trap.pth", {"model": Hostile(tmp_path / "owned")})

    def unpickle(net, path, *args, **more):
        torch.load(path, weights_only=False)

    def call(*args, **more):
        raise AssertionError(f"a file reached the network: {args}")

    monkeypatch.setattr("timm.models._factory.load_checkpoint", unpickle)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", call)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", call)
    monkeypatch.setattr(urllib.request, "urlopen", call)
    monkeypatch.setattr(socket, "create_connection", call)
    yield trap
    assert not (tmp_path / "owned").exists()


def doors(trap):
    """Field of `model_args` -> a value that would open the door."""
    return {
        "checkpoint_path": str(trap),
        "pretrained": True,
        "pretrained_cfg": {"url": "http://localhost/evil.pth"},
        "pretrained_cfg_overlay": {"file": str(trap)},
        "pretrained_filter_fn": "os.system",
        "pretrained_strict": False,
        "cache_dir": str(trap.parent),
        "scriptable": True,
        "exportable": True,
        "no_jit": True,
        "model_cfg": {"a": 1},
        "pruned": True,
        "features_only": True,
        "feature_cls": "hook",
        "device": "meta",
        "norm_layer": "/bin/sh",
        "act_layer": "http://localhost/act",
        "source": "hf-hub:evil/net",
        "source_args": {"checkpoint_path": str(trap)},
    }


FIELDS = sorted(doors(DEMO))


def test_the_trap_would_work(closed, tmp_path):
    timm.create_model(DEIT, depth=1, checkpoint_path=str(closed))
    assert (tmp_path / "owned").is_dir()
    (tmp_path / "owned").rmdir()


def write_config(folder, change):
    folder.mkdir(exist_ok=True)
    content = json.loads((DEMO / "config.json").read_text())
    change(content)
    (folder / "config.json").write_text(json.dumps(content))
    shutil.copyfile(DEMO / "model.safetensors", folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("read", [lambda folder: load_model(ckpt=folder), new_model], ids=["load_model", "new_model"])
def test_a_folder_names_its_architecture_only(tmp_path, closed, field, read):
    folder = write_config(tmp_path / "net", lambda c: c["model_args"].update({field: doors(closed)[field]}))
    with pytest.raises(InputError, match=rf"config\.json: model_args\.{field}.* is refused") as error:
        read(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("field", FIELDS)
def test_the_options_in_a_checkpoint_describe_the_architecture_only(tmp_path, closed, field):
    options = argparse.Namespace(model=DEIT, model_kwargs={field: doors(closed)[field]})
    path = saved(tmp_path / "last.pth", {"state_dict": make_deit().state_dict(), "args": options})
    with pytest.raises(InputError, match=rf"last\.pth': args\.model_kwargs\.{field}.* is refused"):
        load_model(ckpt=path)


def test_values_that_no_description_needs_are_refused(tmp_path):
    options = {"model": DEIT, "model_kwargs": {"depth": torch.ones(1)}}
    path = saved(tmp_path / "last.pth", {"state_dict": make_deit().state_dict(), "args": options})
    with pytest.raises(InputError, match="depth is refused: a Tensor is no plain value"):
        load_model(ckpt=path)


@pytest.mark.parametrize("field", FIELDS)
def test_arguments_of_a_recipe_or_a_command_describe_the_architecture_only(closed, field):
    with pytest.raises(InputError, match=rf"model_args\.{field}.* is refused"):
        load_model(DEIT, ckpt=DEMO, model_args={field: doors(closed)[field]})


@pytest.mark.parametrize("name", ["hf-hub:evil/net", "local-dir:/tmp", "/tmp/net", "no_such_vit", 3, None])
def test_an_architecture_in_a_file_is_a_plain_name(tmp_path, name):
    folder = write_config(tmp_path / "net", lambda c: c.update(architecture=name))
    for read in (lambda: load_model(ckpt=folder), lambda: new_model(folder)):
        with pytest.raises(InputError, match=r"config\.json: architecture .* is no architecture that timm knows"):
            read()


def test_where_a_file_says_that_weights_lie_is_left_out(tmp_path, closed):
    weights = {
        "url": "http://localhost/evil.pth",
        "file": str(closed),
        "hf_hub_id": "evil/net",
        "source": "hf-hub",
        "custom_load": True,
        "state_dict": {"a": 1},
        "license": "mit",
    }
    folder = write_config(tmp_path / "net", lambda c: c["pretrained_cfg"].update(weights))
    for net in (load_model(ckpt=folder), new_model(folder)):
        assert net.pretrained_cfg["license"] == "mit"
        assert not {key for key in weights.keys() - {"license"} if net.pretrained_cfg.get(key) == weights[key]}


@pytest.fixture
def pruned(tmp_path):
    save_pruned(build(), tmp_path / "pruned")
    return tmp_path / "pruned"


def rewrite(folder, **args):
    content = json.loads((folder / "config.json").read_text())
    content["model_args"] |= args
    (folder / "config.json").write_text(json.dumps(content))


@pytest.mark.parametrize("pretrained", [False, True])
def test_timm_itself_opens_no_door_of_a_pruned_network(closed, pruned, pretrained):
    def create():
        return timm.create_model(f"local-dir:{pruned}", pretrained=pretrained)

    assert create().num_classes == 5
    whole = (pruned / "config.json").read_text()
    source_args = json.loads(whole)["model_args"]["source_args"]
    for args, complaint in (
        ({"checkpoint_path": str(closed)}, "prune_realloc.checkpoint_path is refused"),
        ({"source_args": source_args | {"checkpoint_path": str(closed)}}, "source_args.checkpoint_path is refused"),
        ({"source_args": source_args | {"pretrained_cfg_overlay": {"file": str(closed)}}}, "overlay is refused"),
        ({"source": "hf-hub:evil/net"}, "source 'hf-hub:evil/net' is no architecture"),
        ({"source": "local-dir:/tmp"}, "source 'local-dir:/tmp' is no architecture"),
        ({"source": "prune_realloc"}, "of no family whose networks can be cut"),
    ):
        rewrite(pruned, **args)
        with pytest.raises(InputError, match=complaint):
            create()
        with pytest.raises(InputError):
            load_pruned(pruned)
        (pruned / "config.json").write_text(whole)


def test_our_efficientvit_takes_its_own_arguments_only(tmp_path, closed):
    config = {"architecture": "efficientvit_flex", "num_classes": 3, "pretrained_cfg": {}}
    for args in ({"checkpoint_path": str(closed)}, {"norm_layer": "os.system"}):
        (tmp_path / "config.json").write_text(json.dumps(config | {"model_args": args}))
        for read in (new_model, lambda folder: timm.create_model(f"local-dir:{folder}")):
            with pytest.raises(InputError, match=next(iter(args))):
                read(tmp_path)


@pytest.mark.parametrize(
    ("architecture", "args", "complaint"),
    [
        (DEIT, {"checkpoint_path": "/tmp/x.pth"}, "hf-hub:some/net: model_args.checkpoint_path is refused"),
        ("prune_realloc", {"source_args": {"cache_dir": "/tmp"}}, "source_args.cache_dir is refused"),
        ("local-dir:/tmp", {}, "architecture 'local-dir:/tmp' is no architecture"),
    ],
)
def test_what_lies_on_the_hub_is_a_file_too(monkeypatch, architecture, args, complaint):
    monkeypatch.setattr(create, "load_model_config_from_hf", lambda name: ({}, architecture, args))
    with pytest.raises(InputError, match=complaint):
        load_model("hf-hub:some/net")


def test_what_no_file_may_hold_is_not_written(tmp_path):
    net = build()
    net.origin = {"source": "vit_tiny_patch16_224", "source_args": {"norm_layer": torch.nn.LayerNorm}}
    with pytest.raises(InputError, match=r"model_args\.norm_layer is refused: a type is no plain value"):
        save_pruned(net, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("heads", [0, -1])
def test_heads_that_timm_would_build_and_nothing_can_compute(heads):
    with pytest.raises(InputError, match=rf"model_args\.num_heads must be at least 1, got {heads}"):
        require_architecture_args({"num_heads": heads}, "model_args")


def test_what_nests_without_end_is_no_description():
    nested = []
    for _ in range(50):
        nested = [nested]
    with pytest.raises(InputError, match=r"pretrained_cfg\.input_size is no plain value"):
        descriptive({"input_size": [3, nested]})
    assert descriptive({"input_size": [3, 32, 32], "url": "x"}) == {"input_size": [3, 32, 32]}
