"""Every verb that reads and cuts a network, on a small Swin in a file with its name and arguments."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.right import write_pictures
from support.swin import SWIN, TINY_SWIN, swin

from prune_realloc import load_pruned

ARGS = ("embed_dim=24", "depths=[2,2]", "num_heads=[2,4]")
CLASSES = ("ant", "bee", "cat", "dog", "elk")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A checkpoint, a data set, and the options that name both."""
    folder = tmp_path_factory.mktemp("swin")
    torch.save({"model": swin().state_dict()}, folder / "net.pth")
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        pixels = rng.integers(0, 256, (20, 36, 36, 3), np.uint8)
        pics = [(Image.fromarray(each), i % 5) for i, each in enumerate(pixels)]
        write_pictures(folder / "data" / part, pics, CLASSES)
    source = ["--model", SWIN, "--ckpt", folder / "net.pth", "--img-size", TINY_SWIN["img_size"]]
    source += [each for arg in ARGS for each in ("--model-arg", arg)]
    return folder, source, ["--data", folder / "data", "--batch-size", 5]


def shown(run_cli, *args):
    code, out, err = run_cli(*args, "--json")
    assert code == 0, err
    return json.loads(out)


def test_analyze_plan_apply_eval_bench_and_export(run_cli, files, tmp_path):
    _, source, data = files
    run, recipe, folder = tmp_path / "run", tmp_path / "half.yaml", tmp_path / "half"
    found = shown(run_cli, "analyze", *source, *data, "--samples", 20, "-o", run)
    assert found["taken"]["input size"] == {"value": [3, 32, 32], "origin": "--img-size", "guessed": False}
    assert {f"stages.{stage}.embed" for stage in (0, 1)} < set(found["sites"])
    axes = "qk,v,ffn,heads,embed,block"
    planned = shown(run_cli, "plan", run, "--keep-macs", 0.5, "--axes", axes, "-o", recipe)
    assert set(planned["plan"]["sites"]) == set(found["sites"])
    options = ("--eval-samples", 20, "--no-bench", "-o", folder)
    applied = shown(run_cli, "apply", recipe, *source, *data, "--samples", 20, *options)
    assert 0.495 <= applied["macs"]["achieved"] / applied["macs"]["source"] <= 0.5
    assert applied["predicted_damage"] > 0
    net = load_pruned(folder)
    assert sum(p.numel() for p in net.parameters()) == applied["params"]["achieved"]
    assert shown(run_cli, "eval", folder, *data, "--samples", 20)["samples"] == 20
    assert shown(run_cli, "bench", folder, "--batch-size", 1, "--seconds", 0.01)["input_shape"] == [3, 32, 32]
    assert shown(run_cli, "export", folder, "--onnx", tmp_path / "m.onnx")["difference"] < 1e-4
