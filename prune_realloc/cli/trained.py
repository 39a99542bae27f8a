"""What is shown of a finished training run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prune_realloc.cli.console import print_table, say, say_notes

if TYPE_CHECKING:
    from prune_realloc.training.config import TrainConfig
    from prune_realloc.training.outputs import Trained


def show_trained(done: Trained, out: Path, as_json: bool) -> None:
    """Print the numbers of the run."""
    from prune_realloc.training.outputs import BEST, LAST

    if done.unreadable:
        say_notes([f"{done.unreadable} images of the last epoch cannot be read; others stood in for them"])
    if (note := done.note()) is not None:
        say_notes([note])
    rows = [("epochs", str(done.epochs)), *_scores(done), ("minutes", f"{done.seconds / 60:.1f}")]
    if done.teacher_top1 is not None:
        rows.insert(1, ("teacher's top-1", f"{done.teacher_top1:.2%}"))
    print_table(done, as_json, f"{out}/{LAST} and {out}/{BEST}", ("", ""), rows, second={"teacher": done.teacher_taken})


def _scores(done: Trained) -> list[tuple[str, str]]:
    """How good the networks are, or how near to their teacher."""
    from prune_realloc.training.measures import MEASURES

    near = done.likeness
    if near is None:
        began = "" if done.before_top1 is None else f" ({done.before_top1:.2%} before training)"
        return [
            ("top-1", f"{done.top1:.2%}{began}"),
            ("best top-1", f"{done.best_top1:.2%} after epoch {done.best_epoch}"),
            ("loss, nats", f"{done.loss:.4f} (training {done.train_loss:.4f})"),
        ]
    measure = MEASURES[near.measure]
    before, last, best = (f"{value:{measure.form}}" for value in (near.before, near.last, near.best))
    return [
        (measure.text, f"{last} ({before} before training)"),
        ("best", f"{best} after epoch {done.best_epoch}"),
        (measure.loss, f"{done.loss:.4f} ({near.loss_before:.4f} before; training {done.train_loss:.4f})"),
    ]


def say_timm_command(
    settings: TrainConfig, source: str, data: str, out: Path, parts: Mapping[str, Any], others: Mapping[str, Any]
) -> None:
    """How timm's script trains the same network, where it knows the network and the data.

    Args:
        parts: which parts of the data are used, and where it lies; and arguments of the network.
        others: flags that timm's script has nothing for, with their values; None where they were not given.
    """
    from prune_realloc.checkpoints.beside import config_in
    from prune_realloc.checkpoints.folders import is_foreign
    from prune_realloc.data.idx import holds_idx
    from prune_realloc.training.outputs import LAST
    from prune_realloc.training.timm_command import timm_command

    folder = Path(source.removeprefix("local-dir:"))
    if "demo" in (source, data) or is_foreign(config_in(folder)) or holds_idx(Path(data)):
        return
    network = json.loads((out / LAST / "config.json").read_text())
    text = timm_command(settings, source, data, network, **{"data_dir": None, **parts})
    without = [flag for flag, value in others.items() if value is not None]
    left_out = f" (without {', '.join(without)})" if without else ""
    say("")
    say(f"the same with timm's train.py, as far as it goes{left_out}: {text}")
