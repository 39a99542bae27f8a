"""A run that dies, in whatever way, goes on and ends as one that did not."""

import filecmp
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import pytest
from support.training import SMALL, Killed, described, dies_after, place_of, run

from prune_realloc.core.names import STATE_FILE

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}  # as conftest has it: sums of other threads round differently


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    return described(tmp_path_factory.mktemp("variant"))


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
    command = [
        sys.executable,
        "-m",
        "prune_realloc",
        "train",
        str(variant),
        "--data",
        "demo",
        "--device",
        "cpu",
        "--samples",
        "640",
        "--eval-split",
        "held-out",
        "--set",
        "epochs=12",
        "--set",
        "batch_size=32",
        "-o",
        str(tmp_path / "run"),
    ]
    draw = random.Random(0)
    reached = [(0, 0)]
    for _ in range(10):
        process = subprocess.Popen(command, env=ONE_THREAD, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(draw.uniform(3, 7))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if (tmp_path / "run" / STATE_FILE).exists():  # it is whole, and no further back than before
            reached.append(place_of(tmp_path / "run"))
    assert reached == sorted(reached)
    assert reached[-1] > (0, 0), "nothing was trained between the kills; let them live longer"
    done = subprocess.run(command, env=ONE_THREAD, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    whole = subprocess.run([*command[:-1], str(tmp_path / "whole")], env=ONE_THREAD, capture_output=True, check=True)
    assert whole.returncode == 0
    files = [tmp_path / name / "last" / "model.safetensors" for name in ("run", "whole")]
    assert same(*files)
    names = [{p.name for p in (tmp_path / part).rglob("*") if "tfevents" not in p.name} for part in ("run", "whole")]
    assert names[0] == names[1]  # and what a kill left half-written is gone


def test_a_full_disk_says_so_and_the_run_goes_on_when_there_is_room(variant, tmp_path):
    """Files are limited to what the first state takes; the next, with the optimizer's moments, is larger."""
    whole = run(variant, tmp_path / "whole")
    with pytest.raises(Killed):
        run(variant, tmp_path / "first", report=dies_after(0))
    room = (tmp_path / "first" / STATE_FILE).stat().st_size + 4096

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    command = [
        sys.executable,
        "-m",
        "prune_realloc",
        "train",
        str(variant),
        "--data",
        "demo",
        "--device",
        "cpu",
        "--samples",
        "320",
        "--eval-split",
        "held-out",
        *(f"--set={k}={v}" for k, v in SMALL.items()),
        "-o",
        str(tmp_path / "run"),
    ]
    failed = subprocess.run(command, env=ONE_THREAD, preexec_fn=limited, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "cannot be written: File too large (" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert place_of(tmp_path / "run") == (0, 0)
    assert not list((tmp_path / "run").rglob(".*"))
    subprocess.run(command, env=ONE_THREAD, check=True, capture_output=True)
    files = [tmp_path / part / "last" / "model.safetensors" for part in ("run", "whole")]
    assert same(*files)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["top1"] == whole.top1
