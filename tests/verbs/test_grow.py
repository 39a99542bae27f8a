"""`grow`: widths move round by round at one cost, and what was killed goes on."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.training import Killed, dies_after

from prune_realloc import InputError
from prune_realloc.checkpoints.load import DEMO, load_model
from prune_realloc.training.config import train_config
from prune_realloc.training.outputs import LAST
from prune_realloc.verbs import growth
from prune_realloc.verbs.grow import _notes, grow
from prune_realloc.verbs.growth import GrowthData

NETWORK = {
    "img_size": 16,
    "in_chans": 1,
    "num_classes": 4,
    "stem_strides": [2, 2],
    "embed_dim": [16, 24],
    "depth": [1, 1],
    "num_heads": 2,
    "qk_dim": 8,
    "kernels": [3, 3],
}
SETTINGS = {"epochs": 4, "batch_size": 16, "warmup_epochs": 0, "hflip": 0.0}


def described(folder: Path, **args) -> Path:
    """An untrained network as `emit` writes it."""
    folder.mkdir(parents=True)
    config = {"input_size": [1, 16, 16], "mean": [0.5], "std": [0.5], "num_classes": 4}
    content = {"architecture": "efficientvit_flex", "num_classes": 4, "model_args": NETWORK | args}
    (folder / "config.json").write_text(json.dumps(content | {"pretrained_cfg": config}))
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Four classes of noise of different brightness."""
    folder, draw = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part in ("train", "validation"):
        for label in range(4):
            (folder / part / f"class{label}").mkdir(parents=True)
            for number in range(12):
                pixels = draw.integers(60 * label, 60 * label + 60, (16, 16), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / f"class{label}" / f"{number}.png")
    return folder


def run(images: Path, rounds=2, report=None, **settings):
    """With relative paths, so that all that is written is the same wherever the folder lies."""
    config, data = train_config(**SETTINGS | settings), GrowthData(data=str(images))
    return grow("variant", config, data, out="grown", rounds=rounds, device="cpu", report=report)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, images):
    """An uninterrupted one, with its trail."""
    folder = tmp_path_factory.mktemp("whole")
    described(folder / "variant")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return folder, run(images)


def written(folder: Path) -> dict[str, bytes]:
    """What does not tell the time."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    timed = ("result.json", "log.csv", "state.safetensors", "run/report.html")
    return {name: content for name, content in found.items() if not name.endswith(timed) and "tensorboard" not in name}


def test_every_round_costs_what_the_first_does(whole):
    folder, trail = whole
    limit = load_model(ckpt=folder / "grown/round-0/run" / LAST).config.cost.macs
    assert trail.rounds[0].cost["macs"] == limit
    assert all(0.99 * limit <= found.cost["macs"] <= limit for found in trail.rounds)
    assert trail.rounds[1].args != trail.rounds[0].args
    for number, found in enumerate(trail.rounds):
        net = load_model(ckpt=folder / f"grown/round-{number}/run" / LAST)
        assert (net.config, net.config.cost.params) == (found.config, found.cost["params"])
    assert trail.rounds[-1].kept is None
    assert trail.notes[0] == "v: no units of its own are measured; it keeps its relation to the channels"


def test_widths_that_stay_say_why(whole):
    first, second, _ = whole[1].rounds
    assert _notes((first, second)) == whole[1].notes[:1]  # they moved
    still = replace(first, kept={name: 0.5 for name in first.kept})
    (_, note) = _notes((still, first))
    assert note == "round 1 has the widths of round 0: pruning keeps one share of all of them, 50% to 50%"
    (_, note) = _notes((replace(still, kept=still.kept | {"blocks.0.ffn": 0.9}), first))
    assert "pruning keeps 50% to 90% of them, and between the multiples" in note


def test_what_trainings_went_by_is_kept(whole):
    folder, trail = whole
    assert trail.taken["weights"]
    assert trail.taken == json.loads((folder / "grown/trail.json").read_text())["taken"]


def test_weights_are_handed_on(whole):
    folder, _ = whole
    before = load_model(ckpt=folder / "grown/round-0/run" / LAST)
    after = load_model(ckpt=folder / "grown/round-1/network")
    assert after.head.linear.bias.equal(before.head.linear.bias)


def test_the_trail_is_written_for_readers(whole):
    folder, trail = whole
    content = json.loads((folder / "grown/trail.json").read_text())
    assert len(content["rounds"]) == 3
    assert content["settings"]["config.epochs"] == 4
    lines = (folder / "grown/trail.md").read_text().splitlines()
    assert f"| 0 | 16 24 | 8 8 | 8 12 | 32 48 | {trail.rounds[0].cost['params']:,} |" in lines[6]
    assert (folder / "grown/trail.png").read_bytes().startswith(b"\x89PNG")


def dies_at(patch, where, call):
    """A step of a round that fails when it comes to it for so many times."""
    real, calls = getattr(growth, where), []

    def step(*args, **more):
        calls.append(where)
        if len(calls) == call:
            raise Killed
        return real(*args, **more)

    patch.setattr(growth, where, step)


def test_what_was_killed_ends_as_if_it_had_not_been(whole, tmp_path, images, monkeypatch):
    """At one step after the other, of the first round and the second."""
    shutil.copytree(whole[0] / "variant", tmp_path / "variant")
    monkeypatch.chdir(tmp_path)
    for where, call in (("analyze", 1), ("report_files", 1), ("inherit", 1), ("write_files", 1), ("train", 2)):
        with monkeypatch.context() as patch:
            dies_at(patch, where, call)
            with pytest.raises(Killed):
                run(images)
    with pytest.raises(Killed):
        run(images, report=dies_after(2))
    (tmp_path / "grown" / "trail.json").unlink()  # as where the disk is full when it is written
    assert run(images) == whole[1]
    assert written(tmp_path) == written(whole[0])


def test_a_finished_one_is_read_and_another_is_refused(whole, images, monkeypatch):
    folder, trail = whole
    monkeypatch.chdir(folder)
    monkeypatch.setattr(growth, "train", None)
    assert run(images) == trail
    with pytest.raises(InputError, match=r"'grown' has grown with other settings: config.lr is 0.002 there, 0.001 now"):
        run(images, lr=1e-3)
    with pytest.raises(InputError, match="rounds is 2 there, 3 now"):
        run(images, rounds=3)


def test_what_cannot_grow_is_refused_by_name(tmp_path, images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config, data = train_config(**SETTINGS), GrowthData(data=str(images))
    described(tmp_path / "variant")
    with pytest.raises(InputError, match="rounds must be at least 1, got 0"):
        run(images, rounds=0)
    with pytest.raises(InputError, match="is a VisionTransformer; only an EfficientViT"):
        grow(DEMO, config, data, out="grown")
    with pytest.raises(InputError, match="variant 'nowhere' does not exist"):
        grow("nowhere", config, data, out="grown")
    mixed = described(tmp_path / "mixed", depth=[1, 2], num_heads=[2, [2, 4]], kernels=[3, 3, 3, 3])
    with pytest.raises(InputError, match=r"stage 1 has blocks of \[2, 4\] heads"):
        grow(mixed, config, data, out="grown")
    with pytest.raises(InputError, match="has no classifier"):
        grow(described(tmp_path / "headless", num_classes=0), config, data, out="grown")
    with pytest.raises(InputError, match=r"holds config\.json, of another verb"):
        grow("variant", config, data, out="variant")


def test_a_network_at_chance_shows_nothing(tmp_path, images, monkeypatch):
    described(tmp_path / "variant")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"round 0: the trained network .* near chance, so it shows nothing"):
        run(images, lr=0.0, warmup_lr=0.0, min_lr=0.0)


def test_an_analysis_tells_the_widths_of_the_configuration(whole):
    assert set(whole[1].rounds[0].kept) == {f"blocks.{block}.{axis}" for block in range(2) for axis in ("qk", "ffn")}
