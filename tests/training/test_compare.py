"""Groups of runs, their intervals and differences."""

import json
import shutil

import numpy as np
import pytest
import safetensors.torch
import timm
from support.training import (
    FLEX,
    described,
    finished_run,
)

from prune_realloc import InputError
from prune_realloc.checkpoints.load import DEMO
from prune_realloc.core.names import STATE_FILE
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.training.compare import compare
from prune_realloc.training.group import group_notes


def test_groups_intervals_and_paired_differences_by_hand(tmp_path):
    values = {"control": (0.80, 0.82, 0.84), "realloc": (0.81, 0.84, 0.85)}
    folders = [
        finished_run(tmp_path / f"{name}-seed{seed}", seed, top1)
        for name, tops in values.items()
        for seed, top1 in enumerate(tops)
    ]
    control, realloc = compare(folders)
    assert (control.name, control.seeds, control.difference) == ("control", (0, 1, 2), None)
    assert realloc.mean == pytest.approx(0.8333, abs=1e-4)
    assert realloc.difference == pytest.approx((0.01 + 0.02 + 0.01) / 3)
    assert realloc.difference_half_width == pytest.approx(4.3026527297 * np.std([1, 2, 1], ddof=1) / 100 / 3**0.5)
    assert control.macs == EfficientVitConfig(**FLEX).cost.macs


def test_a_run_that_guesses_is_named_beside_its_difference(tmp_path):
    folders = [finished_run(tmp_path / f"{name}-seed0", 0, top1) for name, top1 in (("control", 0.5), ("new", 0.12))]
    path = folders[1] / "result.json"
    assert group_notes(compare(folders)) == ()  # it does not say how many classes there are
    content = json.loads(path.read_text())
    # ten classes, 100 images: two standard errors above chance are 16 %, of 1,000 images 11.9 %
    for images, guesses in ((100, (0,)), (1000, ())):
        content |= {"classes": 10, "data": {"name": "demo", "validation_images": images}}
        path.write_text(json.dumps(content))
        control, new = compare(folders)
        assert (control.guesses, new.guesses) == ((), guesses)
        notes = group_notes((control, new))
        assert any("new: no better than guessing with seed 0" in note for note in notes) == bool(guesses)


def test_a_vision_transformer_is_compared_too(tmp_path):
    folder = finished_run(tmp_path / "vit-seed0", 0, 0.5)
    shutil.rmtree(folder / "last")
    shutil.copytree(DEMO, folder / "last")
    (group,) = compare([folder])
    assert group.macs == 33_382_016  # its closed formula, as in README


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    with pytest.raises(InputError, match="is not there; give a folder that `train -o` wrote"):
        compare([tmp_path])
    (tmp_path / STATE_FILE).touch()
    with pytest.raises(InputError, match=r"is not finished: it has no result\.json"):
        compare([tmp_path])
    wrong = finished_run(tmp_path / "a" / "y-seed3", 0, 0.5)
    with pytest.raises(InputError, match=r"has seed 0, not what its name says; train it with --set seed=3"):
        compare([wrong])
    folders = [finished_run(tmp_path / "a" / "x-seed0", 0, 0.5), finished_run(tmp_path / "b" / "x-seed0", 0, 0.5)]
    with pytest.raises(InputError, match="seed 0 of x is given twice"):
        compare(folders)
    otherwise = finished_run(tmp_path / "c" / "x-seed0", 0, 0.5, epochs=2)
    with pytest.raises(InputError, match=r"c/x-seed0' is no other seed of .*: config.epochs is 2 here, 1 there"):
        compare([folders[0], otherwise])
    with pytest.raises(InputError, match="group 'y' is not there; give one of x"):
        compare(folders[:1], control="y")
    other = finished_run(tmp_path / "a" / "x-seed1", 1, 0.5, epochs=2)
    with pytest.raises(InputError, match=r"is no other seed of .*: config.epochs is 2 here, 1 there"):
        compare([folders[0], other])
    for name, more, words in (
        ("x-seed2", {"teacher": "demo"}, "teacher is demo here, None there"),
        ("x-seed3", {"stem_strides": [2, 1]}, r"network.stem_strides is \[2, 1\] here, \[2, 2\] there"),
    ):
        other = finished_run(tmp_path / "a" / name, int(name[-1]), 0.5, **more)
        with pytest.raises(InputError, match=rf"is no other seed of .*: {words}"):
            compare([folders[0], other])


def test_networks_that_were_trained_otherwise_are_compared_with_a_word(tmp_path):
    folders = [
        finished_run(tmp_path / "control-seed0", 0, 0.5),
        finished_run(tmp_path / "other-seed0", 0, 0.6, epochs=300),
    ]
    control, other = compare(folders)
    assert control.differs is None
    assert other.differs == "config.epochs is 300 here, 1 there"


def test_names_lose_one_ending(tmp_path):
    folders = [finished_run(tmp_path / f"m-{n}-seed{seed}", seed, 0.5) for n in (1, 2) for seed in (1, 2)]
    assert [(group.name, group.seeds) for group in compare(folders)] == [("m-1", (1, 2)), ("m-2", (1, 2))]


def test_each_budget_has_its_control(tmp_path):
    names = ("small-control", "large-control", "small", "large")
    folders = [finished_run(tmp_path / f"{name}-seed0", 0, 0.5) for name in names]
    for folder in folders[1::2]:
        net = timm.create_model(f"local-dir:{described(folder / 'last', embed_dim=[16, 16, 16])}")
        safetensors.torch.save_file(net.state_dict(), folder / "last" / "model.safetensors")
    found = {group.name: group.control for group in compare(folders)}
    assert found == {"small-control": None, "large-control": None, "small": "small-control", "large": "large-control"}
