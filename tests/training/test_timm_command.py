"""The command line for timm's own script."""

import json

from support.training import (
    small_vit,
)

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
