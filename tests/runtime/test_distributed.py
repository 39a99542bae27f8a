"""Two processes do the work of one: the same scores, the same loss of every epoch."""

import csv
import filecmp
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import support.commands
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from support.training import folder_of_images, place_of, small_vit

from prune_realloc import Analysis, InputError
from prune_realloc.runtime.distributed import place, process_group
from prune_realloc.runtime.global_state import own_accelerate_state

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def two(*what):
    """The command line that runs `what` in two processes."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *map(str, what)]


def together(printed, *commands):
    """Runs command lines in two processes, which are started once, and returns what both print for each."""
    files = [f"{printed}{number}-" for number in range(len(commands))]
    lines = [([str(word) for word in command], file) for command, file in zip(commands, files, strict=True)]
    done = subprocess.run(
        two(support.commands.__file__, json.dumps(lines)), env=ONE_THREAD, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return [tuple(Path(f"{file}{rank}").read_text() for rank in (0, 1)) for file in files]


SCORERS = ("fisher", "activation")
DESCENT = ("epochs=2", "batch_size=32", "opt=sgd", "lr=0.05", "clip_grad=0")


def analyze_flags(scorer):
    return ("analyze", "--samples", 101, "--batch-size", 16, "--device", "cpu", "--scorer", scorer)


def train_flags(source):
    where = ("--data", "demo", "--samples", 640, "--eval-split", "held-out", "--device", "cpu")
    return ("train", source, *where, *(f"--set={setting}" for setting in DESCENT), "--json")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """Folder in which two processes have analysed by each scorer and trained; and what they printed."""
    folder = tmp_path_factory.mktemp("two")
    source = small_vit(folder / "vit")
    commands = [(*analyze_flags(scorer), "-o", folder / scorer) for scorer in SCORERS]
    printed = together(folder / "printed", *commands, (*train_flags(source), "-o", folder / "trained"))
    return folder, dict(zip((*SCORERS, "trained"), printed, strict=True))


@pytest.mark.parametrize("scorer", SCORERS)
def test_scores_are_those_of_one_process(scorer, by_two, run_cli, tmp_path):
    folder, printed = by_two
    code, text, _ = run_cli(*analyze_flags(scorer), "-o", tmp_path)
    assert code == 0
    one, two = (Analysis.load(where) for where in (tmp_path, folder / scorer))
    for name, scores in one.scores.items():
        # batches are made of other images, and single precision rounds them differently
        assert np.abs(two.scores[name] - scores).max() <= 1e-6 * scores.max()
        assert np.abs(two.damage[name] - one.damage[name]).max() <= 1e-5 * one.damage[name].max()
    assert (two.samples, two.data, two.top1) == (one.samples, one.data, one.top1)
    assert printed[scorer] == (text, "")  # only one of the two speaks


def test_losses_are_those_of_one_process(by_two, run_cli, tmp_path):
    """Of a network without batch norms, which see the images of their own process only; by plain gradient descent,
    unclipped, in which a gradient of another size would show."""
    folder, printed = by_two
    code, text, _ = run_cli(*train_flags(folder / "vit"), "-o", tmp_path)
    assert code == 0
    assert json.loads(text).keys() == json.loads(printed["trained"][0]).keys()
    assert printed["trained"][1] == ""
    wheres = (tmp_path, folder / "trained")
    rows = [list(csv.DictReader((where / "log.csv").open())) for where in wheres]
    for mine, theirs in zip(*rows, strict=True):
        for field in ("loss", "val_loss"):
            assert float(theirs[field]) == pytest.approx(float(mine[field]), rel=1e-4)
    one, two = (load_file(where / "last" / "model.safetensors") for where in wheres)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_two_processes_that_died_go_on_together(tmp_path):
    """With the same weights as two that did not, and one image, of one of the two, that cannot be read."""
    source, data = small_vit(tmp_path / "vit"), folder_of_images(tmp_path / "data")
    next((data / "train").rglob("*.png")).write_bytes(b"no image")
    flags = ("train", source, "--data", data, "--device", "cpu", "--set", "epochs=12", "--set", "batch_size=8")
    command = two("-m", "prune_realloc", *flags, "-o", tmp_path / "run")
    process = subprocess.Popen(command, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "run" / "log.csv").exists():
        time.sleep(0.1)
    for one in (*psutil.Process(process.pid).children(recursive=True), process):
        one.kill()
        one.wait()
    assert (0, 0) < place_of(tmp_path / "run") < (12, 0)
    names = ("run", "whole")
    together(tmp_path / "printed", *((*flags, "-o", tmp_path / name) for name in names))
    for name in names:
        assert json.loads((tmp_path / name / "result.json").read_text())["unreadable"] == 1
    assert filecmp.cmp(*(tmp_path / name / "last" / "model.safetensors" for name in names), shallow=False)


LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


def launched_as(monkeypatch, **given):
    for name in LAUNCHED:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"RANK": "1"},
        {"RANK": "3", "WORLD_SIZE": "1"},
        {"WORLD_SIZE": ""},
        {"LOCAL_RANK": "0"},
        {"RANK": "1", "LOCAL_RANK": "1"},
    ],
    ids=str,
)
def test_a_process_alone_speaks_whatever_rank_says(monkeypatch, given):
    launched_as(monkeypatch, **given)
    with process_group(torch.device("cpu")) as speaks:
        assert speaks
        assert place() == (0, 1)
        with own_accelerate_state():
            # which takes a stray LOCAL_RANK for a launcher's word
            assert Accelerator(cpu=True).num_processes == 1
    assert {name: os.environ[name] for name in LAUNCHED if name in os.environ} == given


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
