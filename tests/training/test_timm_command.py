"""The command line for timm's own script."""

import argparse
import json
import shlex

import pytest
import timm
from support.checkpoints import saved
from support.networks import TINY, build
from support.training import SMALL, described, folder_of_images, run_on, small_vit
from timm.utils import ParseKwargs

from prune_realloc.checkpoints.load import DEMO
from prune_realloc.training.config import train_config
from prune_realloc.training.timm_command import timm_command


def test_timms_command_says_what_the_settings_say(tmp_path):
    folder = small_vit(tmp_path / "realloc")
    description = json.loads((folder / "config.json").read_text())
    where = {"data_dir": "my images", "split": "train", "eval_split": "test"}
    text = timm_command(train_config("paper"), str(folder), "torch/cifar10", description, **where)
    for words in (
        f"--model local-dir:{folder} ",
        "--in-chans 1",
        "--sched-on-updates",
        "--dataset torch/cifar10",
        "--data-dir 'my images'",
        "--train-split train --val-split test",
        "--lr-base 0.001 --lr-base-size 512 --lr-base-scale linear",
        "--clip-mode agc",
        "--aug-repeats 3",
        "--model-ema-decay 0.99996",
        "--scale 0.08 1.0",
    ):
        assert words in text
    assert "None" not in text
    assert "--pretrained" not in text
    where = {"data_dir": None, "split": "train", "eval_split": "held-out"}
    settings = train_config("recover", sched="constant", precision="fp16")
    text = timm_command(settings, str(DEMO), str(tmp_path), description, **where)
    assert "None" not in text
    for words in ("--pretrained", "--sched step --warmup", "--decay-epochs 4", "--amp-dtype float16", "--data-dir"):
        assert words in text


def built_by(text):
    """The network that timm's script would build, and its input size."""
    parser = argparse.ArgumentParser()
    texts, numbers = ("--model", "--gp"), ("--num-classes", "--in-chans", "--drop-path")
    for flag in (*texts, *numbers):
        parser.add_argument(flag, type=str if flag in texts else float if flag == "--drop-path" else int)
    parser.add_argument("--drop", type=float, default=0.0)
    parser.add_argument("--input-size", type=int, nargs=3)
    parser.add_argument("--model-kwargs", nargs="*", default={}, action=ParseKwargs)
    found, _ = parser.parse_known_args(shlex.split(text))
    net = timm.create_model(
        found.model,
        num_classes=found.num_classes,
        in_chans=found.in_chans,
        global_pool=found.gp,
        drop_rate=found.drop,
        drop_path_rate=found.drop_path,
        **found.model_kwargs,
    )
    return net, found.input_size


def outline(net):
    """Shapes, and what shapes do not tell."""
    heads = [module.num_heads for module in net.modules() if hasattr(module, "num_heads")]
    return {name: tensor.shape for name, tensor in net.state_dict().items()}, heads, str(net)


@pytest.mark.parametrize(
    ("kind", "model_args"),
    [
        ("name", TINY | {"img_size": [28, 56], "patch_size": 7, "in_chans": 1, "num_heads": 6, "global_pool": "avg"}),
        ("name", TINY | {"img_size": 28, "patch_size": 7, "in_chans": 1, "drop_rate": 0.1, "act_layer": "relu"}),
        ("folder", {}),
        ("folder", {"num_heads": 6, "proj_drop_rate": 0.2}),
        ("emitted", {"qk_dim": 8}),
        ("file", TINY | {"num_heads": 6}),
    ],
)
def test_timms_command_builds_the_network_that_was_trained(tmp_path, kind, model_args):
    model_args = {name: value for name, value in model_args.items() if name != "num_classes"}
    source = "vit_tiny_patch16_224"
    if kind == "folder":
        source = str(small_vit(tmp_path / "net"))
    elif kind == "emitted":
        (tmp_path / "net").mkdir()
        source = str(described(tmp_path / "net"))
    elif kind == "file":
        net = build(img_size=28, patch_size=7, in_chans=1)
        source = str(saved(tmp_path / "net.pth", {"state_dict": net.state_dict(), "arch": source}))
    data = folder_of_images(tmp_path / "data", classes=4)
    run_on(data, source, tmp_path / "run", model_args=model_args)
    config = json.loads((tmp_path / "run" / "last" / "config.json").read_text())
    where = {"data_dir": None, "split": "train", "eval_split": "validation"}
    text = timm_command(train_config(**SMALL), source, str(data), config, **where, model_args=model_args)
    net, size = built_by(text)
    assert outline(net) == outline(timm.create_model(f"local-dir:{tmp_path / 'run' / 'last'}"))
    assert size == config["pretrained_cfg"]["input_size"]
    assert net.num_classes == 4
