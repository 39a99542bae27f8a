"""A folder that holds something of every verb: what an earlier version wrote, and made-up numbers of the others."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from support.variants import old_variant

OLD = Path(__file__).parent.parent / "old_files" / "data"
_PASS = {
    "model": "demo",
    "batch_size": 1,
    "passes": 3,
    "unprofiled_ms": 1.0,
    "wall_ms": 2.0,
    "kinds": {"matrix products, convolutions": 1.5, "between operators": 0.5},
    "components": {"attention": 1.5, "rest": 0.5},
    "cells": {"attention": {"matrix products, convolutions": 1.5}, "rest": {"between operators": 0.5}},
    "other": {},
    "operators": [
        {
            "name": "aten::mm",
            "kind": "matrix products, convolutions",
            "component": "attention",
            "shapes": [[2, 3], [3, 5]],
            "calls": 1,
            "ms": 1.5,
            "flops": 60,
            "bytes": 124,
            "bound": "memory",
        }
    ],
}
_SANDWICH = {
    "asked": 0.2,
    "share": 0.2,
    "mean_ffns": 2.0,
    "macs": 9,
    "params": 7,
    "args": {},
    "ms": {"1": 2.0},
    "top1": 0.75,
}


def make_run_folder(folder: Path) -> Path:
    shutil.copytree(OLD, folder)
    likeness = {"matrix": [[1.0, 0.25], [0.25, 1.0]], "mean": 0.25, "largest": 0.25}
    block = {"heads": 2, "maps": likeness, "outputs": None, "removal": [0.5, -0.1], "kl": [0.5, 0.1]}
    heads = {"blocks": [block | {"site": f"blocks.{n}.heads", "kept": n + 1} for n in range(2)]}
    tried = {"site": "blocks.0.qk", "of": 16, "predicted": 0.0, "ranking": 0.1, "reverse": 0.3, "random": 0.2}
    numbers = json.loads((OLD / "pruned" / "result.json").read_text())
    control = {name: numbers[name] for name in ("params", "macs", "top1", "agreement", "kl")}
    point = numbers | {"budget": 0.8, "recipe": "80.yaml", "seconds": 1.0, "control": control | {"kl": 0.5}}
    contents: dict[str, Any] = {
        "analysis/check.json": {
            "tried": [tried | {"kept": kept} for kept in (12, 8, 6, 4, 2, 1)],
            "samples": 8,
            "seed": 0,
            "sorted_difference": 1e-7,
            "cut_difference": 1e-7,
            "trusted": True,
        },
        "heads.json": heads
        | {"samples": 8, "labelled": True, "notes": ["only a few images"], "taken": {}}
        | {"recipe": {"source": {"ckpt": "net.pth"}, "data": {"name": "images", "samples": 8}}},
        "profile.json": {
            "passes": [_PASS],
            "ceilings": {"flops_per_s": 1e11, "bytes_per_s": 1e10},
            "input_shape": [3, 32, 32],
            "device": "cpu",
            "device_name": "Abacus",
            "threads": 2,
            "versions": {"torch": "2"},
            "named": ["nets/demo"],
        },
        "sandwiches.json": {
            "networks": [_SANDWICH, _SANDWICH | {"asked": 0.5, "share": 0.5, "mean_ffns": 0.5, "ms": {"1": 3.0}}],
            "device_name": "Abacus",
            "threads": 2,
            "epochs": 10,
            "named": "demo",
        },
        "sweep.json": {
            "format_version": 1,
            "kind": "macs",
            "examination_seconds": 1.0,
            "notes": [],
            "taken": {},
            "points": [point],
        },
    }
    args = {"img_size": 32, "embed_dim": [16, 32], "depth": [1, 2], "num_heads": 2, "window_size": 4, "num_classes": 5}
    first = {"args": args, "cost": {"params": 7, "macs": 9}, "top1": 0.5, "loss": 1.0}
    second = first | {"args": args | {"ffn_dim": [40, [48, 64]]}, "top1": 0.75}
    contents["trail.json"] = {
        "format_version": 1,
        "settings": {"variant": "v", "data": "d", "rounds": 1},
        "rounds": [first | {"kept": {"blocks.0.ffn": 0.5}}, second],
        "notes": ["only two rounds"],
    }
    timed = asdict(old_variant(timed=True).latency)
    contents["pruned/bench.json"] = timed | {"named": {"realloc": "pruned"}, "notes": ["a busy machine"]}
    contents["pruned/eval.json"] = {"samples": 100, "top1": 0.75, "data": {"name": "images", "split": "test"}}
    contents["variants/realloc/latency.json"] = timed
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    shutil.copy(OLD / "pruned" / "recipe.yaml", folder / "80.yaml")
    return folder
