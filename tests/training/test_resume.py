"""A run that dies, in whatever way, goes on and ends as one that did not."""

import filecmp
import json
import os
import random
import resource
import subprocess
import sys

import pytest
from support.training import SMALL, Killed, dies_after, folder_of_images, killed_in_training, place_of, run, train_long

from prune_realloc.core.names import STATE_FILE

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # as conftest has it: sums of other threads round differently


def same(*files):
    return filecmp.cmp(*files, shallow=False)


EVERYTHING = {
    "mixup": 0.8,
    "cutmix": 1.0,
    "auto_augment": "rand-m9-mstd0.5-inc1",
    "reprob": 0.25,
    "ema": 0.9,
    "repeated_aug": 3,
    "clip_mode": "agc",
    "clip_grad": 0.02,
    "drop_rate": 0.1,
    "color_jitter": 0.4,
}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        EVERYTHING,
        {"workers": 2},
        {"accumulate": 2, "precision": "bf16"},
        {"opt": "lamb"},
        {"opt": "lookahead_adamw"},
    ],
    ids=["plain", "everything", "workers", "parts", "lamb", "lookahead"],
)
def test_a_run_that_died_goes_on_bit_for_bit(settings, variant, tmp_path):
    whole = run(variant, tmp_path / "whole", **settings)
    for reports in (0, 1):
        with pytest.raises(Killed):
            run(variant, tmp_path / "parts", report=dies_after(reports), save_seconds=0.0, **settings)
    again = run(variant, tmp_path / "parts", **settings)
    assert (again.top1, again.loss, again.train_loss) == (whole.top1, whole.loss, whole.train_loss)
    for name in ("last", "best"):
        files = [tmp_path / part / name / "model.safetensors" for part in ("whole", "parts")]
        assert same(*files)


@pytest.mark.slow
def test_kills_at_random_moments_lose_no_run(variant, tmp_path):
    draw = random.Random(0)
    reached = [(0, 0)]
    for _ in range(10):
        killed_in_training(variant, tmp_path / "run", after=draw.uniform(0.0, 0.8))
        if (tmp_path / "run" / STATE_FILE).exists():  # it is whole, and no further back than before
            reached.append(place_of(tmp_path / "run"))
    assert reached == sorted(reached)
    assert reached[-1] > (0, 0), "nothing was trained between the kills; let them live longer"
    for name in ("run", "whole"):
        train_long(variant, tmp_path / name)
    files = [tmp_path / name / "last" / "model.safetensors" for name in ("run", "whole")]
    assert same(*files)
    names = [{p.name for p in (tmp_path / part).rglob("*") if "tfevents" not in p.name} for part in ("run", "whole")]
    assert names[0] == names[1]  # and what a kill left half-written is gone


def test_a_full_disk_says_so_and_the_run_goes_on_when_there_is_room(variant, tmp_path):
    """Files are limited to what the first state takes; the next, with the optimizer's moments, is larger."""
    data = folder_of_images(tmp_path / "data", each=32)

    def train(name, **more):
        return run(variant, tmp_path / name, samples=None, data=str(data), eval_split="validation", **more)

    whole = train("whole")
    with pytest.raises(Killed):
        train("first", report=dies_after(0))
    room = (tmp_path / "first" / STATE_FILE).stat().st_size + 4096

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    settings = [f"--set={key}={value}" for key, value in SMALL.items()]
    command = [sys.executable, "-m", "prune_realloc", "train", variant, "--data", data, "--device", "cpu", *settings]
    command += ["-o", tmp_path / "run"]
    failed = subprocess.run(command, env=ONE_THREAD, preexec_fn=limited, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "cannot be written: File too large (" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert place_of(tmp_path / "run") == (0, 0)
    assert not list((tmp_path / "run").rglob(".*"))
    train("run")
    files = [tmp_path / part / "last" / "model.safetensors" for part in ("run", "whole")]
    assert same(*files)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["top1"] == whole.top1
