"""Two processes do the work of one: the same scores, the same loss of every epoch."""

import csv
import filecmp
import json
import os
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file
from support.training import folder_of_images, place_of, small_vit

from prune_realloc import Analysis, InputError
from prune_realloc.runtime.distributed import place, process_group

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def alone(*arguments):
    return _run([sys.executable, "-m", "prune_realloc", *map(str, arguments)])


TWO = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "prune_realloc")


def together(*arguments):
    return _run([*TWO, *map(str, arguments)])


def _run(command):
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=False)
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
    source = small_vit(tmp_path / "vit")
    flags = (
        "train",
        source,
        "--data",
        "demo",
        "--samples",
        640,
        "--eval-split",
        "held-out",
        "--device",
        "cpu",
        *(f"--set={setting}" for setting in ("epochs=2", "batch_size=32", "opt=sgd", "lr=0.05", "clip_grad=0")),
        "--json",
    )
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


def test_two_processes_that_died_go_on_together(tmp_path):
    """With the same weights as two that did not, and one image, of one of the two, that cannot be read."""
    source, data = small_vit(tmp_path / "vit"), folder_of_images(tmp_path / "data")
    next((data / "train").rglob("*.png")).write_bytes(b"no image")
    flags = ("train", source, "--data", data, "--device", "cpu", "--set", "epochs=40", "--set", "batch_size=8")
    command = [*TWO, *map(str, (*flags, "-o", tmp_path / "run"))]
    process = subprocess.Popen(command, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "run" / "log.csv").exists():
        time.sleep(0.1)
    for one in (*psutil.Process(process.pid).children(recursive=True), process):
        one.kill()
        one.wait()
    assert (0, 0) < place_of(tmp_path / "run") < (40, 0)
    for name in ("run", "whole"):
        together(*flags, "-o", tmp_path / name)
        assert json.loads((tmp_path / name / "result.json").read_text())["unreadable"] == 1
    assert filecmp.cmp(*(tmp_path / name / "last" / "model.safetensors" for name in ("run", "whole")), shallow=False)


LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def launched_as(monkeypatch, **given):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("given", [{}, {"RANK": "1"}, {"RANK": "3", "WORLD_SIZE": "1"}, {"WORLD_SIZE": ""}], ids=str)
def test_a_process_alone_speaks_whatever_rank_says(monkeypatch, given):
    launched_as(monkeypatch, **given)
    with process_group(torch.device("cpu")) as speaks:
        assert speaks
        assert place() == (0, 1)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2, but RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT not set"),
        ({"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}, "MASTER_ADDR, MASTER_PORT not set"),
        (dict(zip(LAUNCHED, ("2", "2", "0", "127.0.0.1", "29571"), strict=True)), "RANK is 2, but WORLD_SIZE 2"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two'"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0'"),
        (dict(zip(LAUNCHED, ("x", "2", "0", "127.0.0.1", "29571"), strict=True)), "RANK is 'x'"),
    ],
)
def test_half_a_launcher_is_refused(monkeypatch, given, complaint):
    launched_as(monkeypatch, **given)
    with pytest.raises(InputError, match=complaint), process_group(torch.device("cpu")):
        raise AssertionError
