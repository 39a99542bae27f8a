"""Write the files under data/ as the package of commit 05d4a8d wrote them; see README.md.

Every path inside the files is relative to the folder that this is started in.
"""

import contextlib
import gzip
import json
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from prune_realloc.train_config import train_config

from prune_realloc import load_model, train

CLASSES, SIDE = 3, 16
NETWORK = {
    "img_size": [SIDE, SIDE],
    "patch_size": 8,
    "in_chans": 1,
    "num_classes": CLASSES,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "mlp_ratio": 2,
}
SETTINGS = {"epochs": 2, "batch_size": 4, "warmup_epochs": 0, "lr": 2e-3}


def write_images(folder: Path) -> None:
    """A bright bar, whose place is the class, on noise of four levels; 48 images to train on and 24 to test."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for part, count in (("train", 48), ("t10k", 24)):
        labels = np.arange(count, dtype=np.uint8) % CLASSES
        pixels = 20 * draw.integers(0, 4, (count, SIDE, SIDE), dtype=np.uint8)
        for image, label in zip(pixels, labels, strict=True):
            image[:, 5 * label : 5 * label + 4] = 200
        for kind, array in (("images-idx3", pixels), ("labels-idx1", labels)):
            head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
            (folder / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes(), 9, mtime=0))


def write_source(folder: Path) -> None:
    """A network that is right on most images, so that there is something to tell apart."""
    described = {"input_size": [1, SIDE, SIDE], "mean": [0.3], "std": [0.3], "num_classes": CLASSES, "crop_pct": 1.0}
    config = {"architecture": "vit_tiny_patch16_224", "num_classes": CLASSES, "model_args": NETWORK}
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "config.json").write_text(json.dumps(config | {"pretrained_cfg": described}))
        longer = train_config(**(SETTINGS | {"epochs": 30, "batch_size": 16}))
        train(scratch, longer, data="images", eval_split="test", device="cpu", out=Path(scratch) / "run")
        shutil.copytree(Path(scratch) / "run" / "last", folder)


def command(*args: str) -> None:
    subprocess.run([sys.executable, "-m", "prune_realloc", *args], check=True)


class Killed(Exception):
    pass


def write_runs() -> None:
    """One run to its end, and the same one killed in the middle of its first epoch."""
    given = {"data": "images", "eval_split": "test", "device": "cpu"}
    train("pruned", train_config(**SETTINGS), out="finished", **given)

    def die(row: dict[str, float]) -> None:
        raise Killed

    with contextlib.suppress(Killed):
        train("pruned", train_config(**SETTINGS), out="interrupted", save_seconds=0.0, report=die, **given)


def write_logits() -> None:
    """What the networks of the folders say to two images."""
    images = torch.linspace(-1, 1, 2 * SIDE * SIDE).reshape(2, 1, SIDE, SIDE).sin()
    logits = {}
    for name in ("source", "pruned", "finished/last", "finished/best"):
        with torch.no_grad():
            logits[name] = load_model(ckpt=name).eval()(images).tolist()
    Path("logits.json").write_text(json.dumps(logits, indent=1) + "\n")


def main() -> None:
    torch.set_num_threads(1)
    write_images(Path("images"))
    write_source(Path("source"))
    command("analyze", "--ckpt", "source", "--data", "images", "--split", "train", "--samples", "48", "-o", "analysis")
    command("plan", "analysis", "--keep-macs", "0.8", "--axes", "qk,v,ffn", "--round-to", "ffn=4", "-o", "planned.yaml")
    every = ("--allocation", "uniform", "--axes", "qk,v,ffn,heads,embed,block")
    command("plan", "analysis", "--keep-params", "0.687", *every, "-o", "uniform.yaml")
    command("apply", "planned.yaml", "--ckpt", "source", "--eval-split", "test", "--no-bench", "-o", "pruned")
    command("emit", "analysis", "--img-size", "32", "--macs", "4M", "--no-bench", "-o", "variants")
    write_runs()
    write_logits()
    for shown in (*Path().rglob("*.html"), *Path().rglob("*.png"), *Path().rglob("*tfevents*")):
        shown.unlink()  # pages and pictures, which nothing reads


if __name__ == "__main__":
    main()
