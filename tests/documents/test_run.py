"""What the documents show is run: commands through the command line on few images, blocks of Python as they stand.

README's commands come first; every page goes on in a copy of the folder that they have left.
"""

import json
import os
import shlex
import shutil
import webbrowser
from functools import partial
from itertools import dropwhile
from pathlib import Path

import onnx
import pytest
import torch
from support.data import idx_bytes
from support.documents import PAGES, ROOT, blocks_of, commands_of

from prune_realloc.checkpoints.load import DEMO, load_model
from prune_realloc.data.idx import read_idx
from prune_realloc.data.images import DEMO as SHIPPED_IMAGES
from prune_realloc.results import bench

FEW = {
    "analyze": "--samples 32",
    "apply": "--samples 32 --eval-samples 32 --no-bench",
    "emit": "--no-bench",
    "eval": "--samples 32",
    "heads": "--samples 16",
    "profile": "--seconds 0",
    "sweep": "--samples 32 --eval-samples 32 --budgets 0.5",
    "train": "--samples 64 --set epochs=1 --set batch_size=32",
}
"""Verb -> what is put behind its flags, so that it is quick; the last one of a kind counts."""
SHORTER = {"--seeds 5": "--seeds 1", "--peak-mb 200": "--peak-mb 2", "--set epochs=3": "", "> recipe.schema.json": ""}
"""What is exchanged in a command, where putting something behind it would not do."""
ANEW = ("sweep", "train")
"""Verbs that do not write where something lies."""
PARSED = {
    "apply deit_small_half": "the recipe is of DeiT-S, whose weights are at a hub",
    "bench": "two runtimes at batch 32 take ten seconds; tests/cli/test_bench.py runs it",
    "compare runs/* --controls": "it compares a whole grid of trainings; tests/training/test_controls.py runs it",
    "grow": "widths move only once a network has learnt something, in minutes; tests/verbs/test_grow.py does it",
    "analyze --check": "README's check has been run; it masks many units",
    "export --onnx model.onnx --with": "ten seconds; tests/cli/test_export.py runs it",
    "export runs/recovered": "the same without preprocessing is run",
    "profile demo runs/first/pruned": "README's profile of two networks has been run",
    "profile demo --sweep-mhsa 0.1": "five networks are timed; tests/verbs/test_sandwiches.py does it",
    "train runs/first/variants": "README's training has been run; this one predicts 1,000 images",
    "plan runs/deit --keep-latency": "a table of times takes minutes; tests/verbs/test_latency.py plans by one",
    "plan runs/deit --latency-ms": "the same",
    "apply fast.yaml": "the same; the recipe is that of the plan",
    "profile deit_tiny_patch16_224": "batches of 64 images of 224 pixels take minutes",
    "profile demo --sweep-mhsa 0.2,0.4 --train": "two trainings of ten epochs take minutes",
}
"""How a command begins that is read only, by `test_commands.py` -> why."""
README = ROOT / "README.md"
COMPILED = {"latency": "a table of times takes minutes; tests/verbs/test_latency.py measures one"}
"""Page whose blocks of Python are compiled only -> why."""
ELSEWHERE = {"own-network", "python"}
"""Pages of blocks that `test_examples.py` runs, and looks at what they leave behind."""
SHOWING = [page for page in PAGES if commands_of(page) or (blocks_of(page) and page.stem not in ELSEWHERE)]


def few(line):
    """The arguments of a command with what makes it quick; `*` stands for what lies there, as in a shell."""
    for shown, quick in SHORTER.items():
        line = line.replace(shown, quick)
    words = shlex.split(line)
    found = [each for word in words for each in (sorted(map(str, Path().glob(word))) if "*" in word else [word])]
    samples = "--samples 8" if "--check" in words else FEW.get(words[0], "")
    return [*found, *shlex.split(samples)]


def run(run_cli, line):
    args = few(line)
    if args[0] in ANEW and "-o" in args:
        shutil.rmtree(args[args.index("-o") + 1], ignore_errors=True)
    code, _, err = run_cli(*args)
    assert code == 0, f"prune-realloc {shlex.join(args)}\n{err[-2000:]}"


def run_commands(page, run_cli, known=()):
    """All that a page shows, but for what it begins with and is known to have been run."""
    for line in dropwhile(lambda each: each in known, commands_of(page)):
        if not any(line.startswith(begin) for begin in PARSED):
            run(run_cli, line)


def write_images(folder):
    """64 of the shipped images for each part, where the documents have theirs."""
    folder.mkdir(parents=True)
    for part in ("train", "t10k"):
        for kind in ("images-idx3", "labels-idx1"):
            found = read_idx(SHIPPED_IMAGES / f"{part}-{kind}-ubyte.gz")[:64]
            (folder / f"{part}-{kind}-ubyte").write_bytes(idx_bytes(found))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What the documents call a checkpoint and images."""
    place = tmp_path_factory.mktemp("documents") / "readme"
    for images in ("path/to/images", "images", "imagenet"):
        write_images(place / images)
    for name in ("deit.pth", "deit_small.pth", "deit_small_patch16_224-cd65a155.pth"):
        shutil.copytree(DEMO, place / name)
    torch.save(load_model().state_dict(), place / "mine.pth")
    return place


def once(interleave, calls, **options):
    """A measurement of times in one round."""
    return interleave(calls, **options | {"warmup": 0, "rounds": 1, "seconds": 0.0})


@pytest.fixture
def after_readme(folder, run_cli, tmp_path, monkeypatch):
    """The folder that README's commands have left, which are run once; a copy, in which a page may do what it shows."""
    monkeypatch.setattr(webbrowser, "open", lambda address: True)
    monkeypatch.setattr(bench, "interleave", partial(once, bench.interleave))
    if not (folder / "runs").exists():
        monkeypatch.chdir(folder)
        run_commands(README, run_cli)
    shutil.copytree(folder, tmp_path / "page", copy_function=os.link)  # what is written anew takes a file's place
    monkeypatch.chdir(tmp_path / "page")
    return tmp_path / "page"


@pytest.mark.parametrize("page", SHOWING, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page, run_cli, after_readme):
    """Its commands, and then its blocks one after the other, which see what the commands have written."""
    run_commands(page, run_cli, known=commands_of(README))
    names = {"__name__": "page", "json": json, "onnx": onnx}
    for block in blocks_of(page):
        code = compile(block, page.name, "exec")
        if page.stem not in COMPILED:
            exec(code, names)


def test_what_is_only_read_is_shown_somewhere():
    shown = [line for page in PAGES for line in commands_of(page)]
    for begin in PARSED:
        assert any(line.startswith(begin) for line in shown), begin
