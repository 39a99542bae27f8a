"""Two processes do the work of one: the same scores, the same loss of every epoch."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file

from prune_realloc import Analysis


def alone(*arguments):
    return _run([sys.executable, "-m", "prune_realloc", *map(str, arguments)])


def together(*arguments):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return _run([*launcher, "-m", "prune_realloc", *map(str, arguments)])


def _run(command):
    done = subprocess.run(
        command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("scorer", ["fisher", "activation"])
def test_scores_are_those_of_one_process(scorer, tmp_path):
    flags = ("analyze", "--samples", 101, "--batch-size", 16, "--device", "cpu", "--scorer", scorer)
    texts = [run(*flags, "-o", tmp_path / name) for run, name in ((alone, "one"), (together, "two"))]
    one, two = (Analysis.load(tmp_path / name) for name in ("one", "two"))
    for name, scores in one.scores.items():
        # batches are made of other images, and single precision rounds them differently
        assert np.abs(two.scores[name] - scores).max() <= 1e-6 * scores.max()
        assert np.abs(two.damage[name] - one.damage[name]).max() <= 1e-5 * one.damage[name].max()
    assert (two.samples, two.data, two.top1) == (one.samples, one.data, one.top1)
    assert texts[0] == texts[1]  # only one of the two speaks


def test_losses_are_those_of_one_process(tmp_path):
    """Of a network without batch norms, which see the images of their own process only; by plain gradient descent,
    unclipped, in which a gradient of another size would show."""
    source = tmp_path / "vit"
    source.mkdir()
    args = {key: value for key, value in TINY.items() if key != "num_classes"}
    args |= {"img_size": 28, "patch_size": 7, "in_chans": 1}
    pretrained = {"input_size": [1, 28, 28], "mean": [0.286], "std": [0.353], "num_classes": 10}
    (source / "config.json").write_text(json.dumps(
        {"architecture": "vit_tiny_patch16_224", "num_classes": 10, "model_args": args, "pretrained_cfg": pretrained}
    ))  # fmt: skip
    flags = ("train", source, "--data", "demo", "--samples", 640, "--eval-split", "held-out", "--device", "cpu",
             *(f"--set={setting}" for setting in ("epochs=2", "batch_size=32", "opt=sgd", "lr=0.05", "clip_grad=0")),
             "--json")  # fmt: skip
    rows = []
    for run, name in ((alone, "one"), (together, "two")):
        json.loads(run(*flags, "-o", tmp_path / name))
        rows.append(list(csv.DictReader((tmp_path / name / "log.csv").open())))
    for mine, theirs in zip(*rows, strict=True):
        for field in ("loss", "val_loss"):
            assert float(theirs[field]) == pytest.approx(float(mine[field]), rel=1e-4)
    one, two = (load_file(tmp_path / name / "last" / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
