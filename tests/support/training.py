"""Short training runs on small images."""

import json
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import safetensors.torch
import timm
import torch
from PIL import Image
from safetensors import safe_open

from prune_realloc.core.names import STATE_FILE
from prune_realloc.training import images
from prune_realloc.training.config import train_config
from prune_realloc.training.train import train
from support.networks import TINY

FLEX = {
    "img_size": 28,
    "in_chans": 1,
    "num_classes": 10,
    "stem_strides": [2, 2],
    "embed_dim": [8, 16, 16],
    "depth": [1, 1, 1],
    "num_heads": 2,
    "qk_dim": 4,
    "kernels": [3, 3],
}
SMALL = {"epochs": 2, "batch_size": 32, "warmup_epochs": 0, "lr": 2e-3}


def described(folder, **args):
    """An untrained network as `emit` writes it."""
    config = {"input_size": [1, 28, 28], "mean": [0.286], "std": [0.353], "num_classes": 10}
    content = {"architecture": "efficientvit_flex", "num_classes": 10, "model_args": FLEX | args}
    (folder / "config.json").write_text(json.dumps(content | {"pretrained_cfg": config}))
    return folder


def run(
    variant,
    out,
    samples=320,
    data="demo",
    eval_split="held-out",
    report=None,
    save_seconds=60.0,
    teacher=None,
    **settings,
):
    return train(
        variant,
        train_config(**(SMALL | settings)),
        data=data,
        out=out,
        samples=samples,
        device="cpu",
        eval_split=eval_split,
        report=report,
        save_seconds=save_seconds,
        teacher=teacher,
    )


def train_long(variant, out):
    """Long enough to be killed several times, with a state after every step."""
    torch.set_num_threads(1)  # as conftest has it, for a process that starts here
    images.HELD_OUT = 400
    return run(variant, out, epochs=6, save_seconds=0.0)


def killed_in_training(variant, out, after):
    """`train_long` in a process of its own, killed so many seconds after it first wrote its state."""

    def written():
        return (out / STATE_FILE).stat().st_mtime_ns if (out / STATE_FILE).exists() else None

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["prune_realloc.training.train"])  # once, not in every process
    before = written()
    process = context.Process(target=train_long, args=(variant, out))
    process.start()
    while process.is_alive() and written() == before:
        time.sleep(0.01)
    time.sleep(after)
    process.kill()
    process.join()


def run_on(data, variant, out, **more):
    """One epoch on a folder of images."""
    settings = {name: more.pop(name) for name in ("distill", "weight_decay", "workers") if name in more}
    config = train_config(**SMALL | {"batch_size": 8, "epochs": 1} | settings)
    return train(variant, config, data=str(data), out=out, device="cpu", **more)


def finished_run(folder, seed, top1, epochs=1, teacher=None, **args):
    """What a run leaves that `compare` reads, without training."""
    (folder / "last").mkdir(parents=True)
    net = timm.create_model(f"local-dir:{described(folder / 'last', **args)}")
    safetensors.torch.save_file(net.state_dict(), folder / "last" / "model.safetensors")
    content = {"top1": top1, "params": 7, "config": {"seed": seed, "epochs": epochs}, "data": {"name": "demo"}}
    content |= {"teacher": teacher, "model_args": {}}
    (folder / "result.json").write_text(json.dumps(content))
    return folder


@dataclass(frozen=True)
class Relabelled:
    """Loads what another does, with every label moved by so much; it can be sent to another process."""

    load: Callable[[int], tuple[Image.Image, int]]
    by: int

    def __call__(self, position):
        image, label = self.load(position)
        return image, label + self.by


class Killed(Exception):
    pass


def dies_after(reports):
    """A report that fails so many steps (in tens) or epochs later."""
    left = [reports]

    def report(row):
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return report


def place_of(folder):
    """(epoch, step) that a run's state stands at."""
    with safe_open(folder / STATE_FILE, "pt") as file:
        facts = json.loads(file.metadata()["run"])
    return facts["epoch"], facts["step"]


def small_vit(folder, **more):
    """An untrained one, without batch norms."""
    folder.mkdir(parents=True)
    args = {key: value for key, value in TINY.items() if key != "num_classes"}
    args |= {"img_size": 28, "patch_size": 7, "in_chans": 1}
    pretrained = {"input_size": [1, 28, 28], "mean": [0.286], "std": [0.353], "num_classes": 10}
    content = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 10,
        "model_args": args,
        "pretrained_cfg": pretrained,
    }
    (folder / "config.json").write_text(json.dumps(content | more))
    return folder


def folder_of_images(folder, parts=("train", "validation"), classes=10, each=4):
    draw = np.random.default_rng(0)
    for part in parts:
        for label in range(classes):
            (folder / part / f"class{label}").mkdir(parents=True)
            for number in range(each):
                pixels = draw.integers(0, 255, (28, 28), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / part / f"class{label}" / f"{number}.png")
    return folder
