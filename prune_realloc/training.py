"""The verb `train`: a network and images -> a trained network, on accelerate, with timm's parts; resumable bit for bit.

Every draw is a function of the seed, the epoch and the image, or of the seed and the step, and never of a generator's
history. So the place in the data is one number, and a run that was killed goes on as if it had not been.
"""

# B images of one process and step, C classes

from __future__ import annotations

import csv
import io
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from safetensors import SafetensorError, safe_open
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn

from prune_realloc.analysis import META_FILE, clear_half_written, make_folder, write_file, write_files
from prune_realloc.checkpoint import (
    WEIGHTS_FILES,
    builder,
    describe,
    load_model,
    model_identity,
    new_model,
    weights_file,
)
from prune_realloc.data import Batch, Preprocessing, iterate, preprocessing
from prune_realloc.errors import InputError, NotFinite, WorkFailed
from prune_realloc.evaluate import measure
from prune_realloc.processes import broadcast_, gathered, place, summed
from prune_realloc.prune import RECIPE_FILE
from prune_realloc.report import write_curves
from prune_realloc.session import check_labels, count_classes, input_shape, out_of_memory_named, pick_device
from prune_realloc.train_config import TrainConfig
from prune_realloc.training_images import Augmented, TrainingImages, check_unreadable, drawn_from, epoch_order

STATE_FILE, LOG_FILE, RESULT_FILE = "state.safetensors", "log.csv", "result.json"
BEST, LAST = "best", "last"
"""Folders of a run's networks."""
_COLUMNS = ("epoch", "loss", "lr", "top1", "val_loss", "images_per_second", "seconds", "unreadable")
_OTHERS = (META_FILE, "config.json", RECIPE_FILE)
"""What other verbs write into their folders."""
FREE = ("workers", "compile")
"""Settings that may change from one start of a run to the next: they change its speed only."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a run has come to."""

    epochs: int
    top1: float
    """Share of the validation images that the last network gets right."""
    best_top1: float
    best_epoch: int
    loss: float
    """Cross-entropy of the last network on the validation images, nats per image."""
    train_loss: float
    """Mean of the last epoch."""
    params: int
    unreadable: int
    """Images of the last epoch that others stood in for."""
    seconds: float
    """Of training and evaluation, over all resumptions."""
    config: TrainConfig
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    parent: str
    """What was trained: the folder or checkpoint."""
    model_args: Mapping[str, Any]
    """What it was built with, over its own."""
    teacher: str | None
    teacher_top1: float | None
    """Share of the validation images that the teacher gets right; None without a teacher."""


Report = Callable[[dict[str, float]], None]
"""Called with one row of the log after each epoch, and now and then inside it with epoch, share done and loss."""


def train(
    source: str | Path,
    config: TrainConfig,
    *,
    data: str,
    out: str | Path,
    data_dir: str | None = None,
    split: str = "train",
    eval_split: str = "validation",
    samples: int | None = None,
    teacher: str | Path | None = None,
    model_args: Mapping[str, Any] | None = None,
    device: str = "auto",
    save_seconds: float = 60.0,
    report: Report | None = None,
) -> Trained:
    """Train what lies at `source` and write `last/` and `best/` to `out`, which timm's `local-dir:` loads.

    Started again with the same arguments, an interrupted run goes on from its state; a finished one returns its
    result.

    Args:
        source: folder of an emitted, pruned or trained network, a checkpoint, `demo`, or timm's name of a network,
            which starts from new weights with the data's classes.
        data, data_dir, split, eval_split: as in `open_images`; with labels.
        samples: train on the first so many of the images in an order drawn by seed 0; None: all. Where `eval_split` is
            `held-out`, others of the split are evaluated, up to `HELD_OUT`.
        teacher: checkpoint, `demo`, or timm name of the network to distil from.
        model_args: more arguments for `timm.create_model`, such as `{"img_size": 64}`.
        save_seconds: least time between two saves of the state inside an epoch.

    Raises:
        InputError: network, data, teacher or configuration do not fit, or `out` holds another run.
        WorkFailed: the loss is no longer finite, the disk is full, or images have gone; the last state stands.
    """
    accelerator = _accelerator(config, device)
    folder = Path(out)
    images = TrainingImages(data, data_dir, split, eval_split, samples)
    net = _student(source, config, images.source.num_classes, model_args or {})
    description = describe(
        net, *builder(net), own_weights=not _is_stored(source), class_names=images.source.class_names
    )
    run = _Run(accelerator, config, net, description, images, teacher, folder)
    # in the order in which a difference is named
    identity = {
        "source": str(source), "config": config.model_dump(exclude={*FREE}), "data": images.facts(),
        "model_args": dict(model_args or {}), "teacher": None if teacher is None else str(teacher),
        "processes": accelerator.num_processes,
        "network": model_identity(net), "taught": None if run.teacher is None else model_identity(run.teacher.net),
    }  # fmt: skip
    if accelerator.is_main_process:
        make_folder(folder)
        for written in (folder, folder / BEST, folder / LAST):
            clear_half_written(written)
    run.resume(identity)
    run.check_together()
    remedy = "set accumulate higher or batch_size lower, in another folder"
    with out_of_memory_named(config.batch_size, remedy), _state_named(folder):
        run.evaluate_teacher()
        while run.epoch < config.epochs:
            run.train_epoch(save_seconds, report)
            run.evaluate_epoch(report)
        return run.result()


@contextmanager
def _state_named(folder: Path) -> Iterator[None]:
    """Says what is left, and how to go on, when a disk is full or images cannot be read in the middle of a run."""
    try:
        yield
    except (InputError, OSError) as error:
        raise WorkFailed(f"{error} ({folder / STATE_FILE} is whole: once that is mended, the same command goes on from "
                         "it)") from error  # fmt: skip


def _accelerator(config: TrainConfig, device: str) -> Accelerator:
    where = pick_device(device)
    if config.precision == "fp16" and where.type == "cpu":
        raise InputError("precision 'fp16' needs a GPU; choose bf16 or float32")
    # accelerate keeps its state for the whole process; another run may want another precision or device
    AcceleratorState._reset_state(reset_partial_state=not torch.distributed.is_initialized())
    found = Accelerator(
        cpu=where.type == "cpu", mixed_precision="no" if config.precision == "float32" else config.precision
    )
    known = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU)
    if found.distributed_type not in known:
        raise InputError(f"accelerate is set to {found.distributed_type.value}, in which a run could not go on; choose "
                         "multi-GPU or no distribution (accelerate config)")  # fmt: skip
    return found


def _student(source: str | Path, config: TrainConfig, classes: int | None, model_args: Mapping[str, Any]) -> nn.Module:
    """The network at `source`; without weights of its own it starts from `seed`. One of timm's gets `classes`."""
    torch.manual_seed(config.seed)
    more = dict(model_args) if config.drop_rate is None else {"drop_rate": config.drop_rate} | dict(model_args)
    path = Path(source)
    described = (path / "config.json").is_file()
    if described and not any((path / name).exists() for name in WEIGHTS_FILES):
        net = new_model(path, model_args=more)
    elif _is_stored(source):
        net = _opened(source, model_args=more)
    else:
        net = _opened(source, model_args=({"num_classes": classes} if classes else {}) | more)
    if not count_classes(net):
        raise InputError(f"source {str(source)!r} has no classifier; emit, or prune, one that has")
    if config.distill != "none" and hasattr(net, "set_distilled_training"):
        cast("Any", net).set_distilled_training(True)  # DeiT's second token
    if config.grad_checkpointing:
        try:
            cast("Any", net).set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise InputError(f"grad_checkpointing: {type(net).__name__} does not offer it; leave it out") from error
    return net


def _is_stored(name: str | Path) -> bool:
    """Whether it is a file, a folder or the shipped ViT, and no name of timm's."""
    return Path(name).exists() or str(name) == "demo"


def _opened(name: str | Path, **more: Any) -> nn.Module:
    """A checkpoint, the shipped ViT, or a network that timm knows."""
    if str(name) == "demo":
        return load_model(**more)
    return load_model(ckpt=name, **more) if Path(name).exists() else load_model(str(name), **more)


# -- the run ----------------------------------------------------------------------------------------------------


class _Run:
    """Network, optimizer, averaged weights and place of one run."""

    def __init__(self, accelerator: Accelerator, config: TrainConfig, net: nn.Module, description: bytes,
                 images: TrainingImages, teacher: str | Path | None, folder: Path) -> None:  # fmt: skip
        self.accelerator, self.config, self.images, self.folder = accelerator, config, images, folder
        self.description, prepare = description, images.fit(net)
        if (config.distill != "none") != (teacher is not None):
            raise InputError("distill: needs a teacher, and a teacher needs distill; give --teacher and distill=soft "
                             "or hard")  # fmt: skip
        rank, world = accelerator.process_index, accelerator.num_processes
        if config.batch_size % (world * config.accumulate):
            raise InputError(f"batch_size {config.batch_size} is not a multiple of {world} processes x accumulate "
                             f"{config.accumulate}")  # fmt: skip
        mix = config.mixup > 0 or config.cutmix > 0
        if mix and config.batch_size % (2 * world):
            raise InputError(f"batch_size {config.batch_size} is not even in each of {world} processes; mixup and "
                             "cutmix pair the images")  # fmt: skip
        self.rank, self.world = rank, world
        self.at_once = config.batch_size // (world * config.accumulate)
        """Images that a process computes together."""
        norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
        if norms and self.at_once < 2:
            raise InputError(f"batch_size {config.batch_size} leaves one image for each of {world} processes x "
                             f"accumulate {config.accumulate}; batch norms need two")  # fmt: skip
        if config.channels_last:
            net = net.to(memory_format=torch.channels_last)
        self.net: Any = net.to(accelerator.device)
        self.steps = len(epoch_order(images.chosen, config, 0))
        lr = config.lr * (config.batch_size / config.lr_per if config.lr_per else 1.0)
        try:
            optimizer = create_optimizer_v2(self.net, opt=config.opt, lr=lr, weight_decay=config.weight_decay)
        except (ValueError, AssertionError, KeyError) as error:
            raise InputError(
                f"opt {config.opt!r} is none of timm's optimizers, or lacks a package ({error})"
            ) from error
        self.wrapped: Any
        self.wrapped, self.optimizer = accelerator.prepare(self.net, optimizer)
        if config.compile:
            self.wrapped = torch.compile(self.wrapped)
        # constant: steps that never come
        self.schedule = create_scheduler_v2(
            optimizer, sched="cosine" if config.sched == "cosine" else "step", decay_epochs=config.epochs + 1,
            num_epochs=config.epochs, warmup_epochs=config.warmup_epochs, warmup_lr=config.warmup_lr,
            min_lr=config.min_lr, step_on_epochs=False, updates_per_epoch=self.steps,
        )[0]  # fmt: skip
        self.ema = ModelEmaV3(self.net, decay=config.ema, use_warmup=True) if config.ema else None
        self.mixup = Mixup(
            config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=count_classes(net)
        ) if mix else None  # fmt: skip
        self.teacher = None if teacher is None else _Teacher(teacher, net, prepare, accelerator.device)
        self.dataset, self.prepare = Augmented(images, prepare, config), prepare
        self.epoch = self.step = 0
        self.teacher_top1: float | None = None
        self.evaluated = 0
        """Validation images that could be read."""
        self.unreadable = 0
        """Images of this epoch, in all processes, that others stood in for."""
        self.seconds, self.best = 0.0, (-1.0, 0)
        self.losses: list[float] = []
        """Of every step of this epoch so far."""
        self.rows: list[dict[str, float]] = []

    # -- one epoch

    def train_epoch(self, save_seconds: float, report: Report | None) -> None:
        batches = epoch_order(self.images.chosen, self.config, self.epoch)
        mine = [batch[self.rank :: self.world] for batch in batches[self.step :]]
        loader = torch.utils.data.DataLoader(
            self.dataset, batch_sampler=mine, num_workers=self.config.workers, pin_memory=torch.cuda.is_available()
        )
        self.wrapped.train()
        saved = started = time.monotonic()
        before = self.seconds
        for images, labels, replaced in loader:
            self.unreadable += int(summed(replaced.sum()))
            check_unreadable(self.unreadable, len(self.images.chosen), self.images.source.name)
            check_labels(labels, count_classes(self.net), self.images.source.name, "give images of its classes")
            self.losses.append(self._one_step(images, labels))
            self.step += 1
            if not math.isfinite(self.losses[-1]):
                raise self._diverged(f"the loss is {self.losses[-1]}")
            self.seconds = before + time.monotonic() - started
            if report is not None and self.accelerator.is_main_process and self.step % 10 == 0:
                report(
                    {"epoch": self.epoch + 1, "done": self.step / self.steps, "loss": float(np.mean(self.losses[-50:]))}
                )
            if time.monotonic() - saved >= save_seconds and self.step < self.steps:
                self.save()
                saved = time.monotonic()
        self.save()

    def _diverged(self, what: str) -> WorkFailed:
        return WorkFailed(
            f"{what} in epoch {self.epoch + 1}, step {self.step}; lower lr, raise warmup_epochs, or clip gradients, in "
            f"another folder ({self.folder / STATE_FILE} and the networks beside it are from before)"
        )

    def _one_step(self, images: Tensor, labels: Tensor) -> float:
        config, device = self.config, self.accelerator.device
        update = self.epoch * self.steps + self.step
        self.schedule.step_update(update)
        total = 0.0
        with drawn_from(config.seed, 1 + update, self.rank, device=device):
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            if config.channels_last:
                images = images.contiguous(memory_format=torch.channels_last)
            targets = F.one_hot(labels, count_classes(self.net)).float()
            targets = targets * (1 - config.smoothing) + config.smoothing / targets.shape[1]
            if self.mixup is not None:
                images, targets = self.mixup(images, labels)
            parts = config.accumulate
            for number, (x, y) in enumerate(zip(images.chunk(parts), targets.chunk(parts), strict=True)):
                last = number == parts - 1
                with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
                    with self.accelerator.autocast():
                        loss = self._loss(self.wrapped(x), y, x)
                    self.accelerator.backward(loss / parts)
                total += float(loss.detach()) / parts
            if config.clip_grad:
                self.accelerator.unscale_gradients(self.optimizer)
                dispatch_clip_grad(self.net.parameters(), config.clip_grad, mode=config.clip_mode)
            self.optimizer.step()
            self.optimizer.zero_grad()
            if self.ema is not None:
                self.ema.update(self.net, step=update)
        return float(summed(torch.tensor(total, dtype=torch.float64))) / self.world

    def _loss(self, out: Any, targets: Tensor, images: Tensor) -> Tensor:
        """Cross-entropy with the labels, and with the teacher, nats per image."""
        own, learns = out if isinstance(out, tuple) else (out, out)
        loss = torch.sum(-targets * F.log_softmax(own.float(), dim=-1), dim=-1).mean()
        if self.teacher is None:
            return loss
        t, weight = self.config.temperature, self.config.distill_weight
        logits = self.teacher(images)
        if self.config.distill == "hard":
            taught = F.cross_entropy(learns.float(), logits.argmax(dim=1))
        else:
            log_p, log_q = F.log_softmax(learns.float() / t, dim=1), F.log_softmax(logits / t, dim=1)
            taught = F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * t * t
        return (1 - weight) * loss + weight * taught

    def _kept(self) -> nn.Module:
        """What is evaluated and written."""
        return self.net if self.ema is None else self.ema.module

    def evaluate_teacher(self) -> None:
        """Before the first step, so that a teacher of other classes shows."""
        if self.teacher is not None and self.teacher_top1 is None:
            self.teacher_top1, _, _ = self._evaluate(self.teacher.net, self.teacher.prepare)

    def _evaluate(self, net: nn.Module, prepare: Preprocessing) -> tuple[float, float, int]:
        """Share of the validation images that `net` gets right, its cross-entropy in nats, and how many they are."""
        source = self.images.validation
        broadcast_(net.buffers())  # batch norms of each process have seen other images

        def batches() -> Iterator[Batch]:
            for batch in iterate(source, prepare, samples=source.count, batch_size=min(256, self.at_once), seed=0,
                                 workers=self.config.workers, part=place()):  # fmt: skip
                check_labels(
                    batch.labels, count_classes(net), source.name, "give a part that has labels of its classes"
                )
                yield batch

        found = measure(net, batches(), labelled=True)
        mine = [(found.top1 or 0.0) * found.samples, (found.loss or 0.0) * found.samples, float(found.samples)]
        right, loss, count = summed(torch.tensor(mine, dtype=torch.float64)).tolist()
        return right / count, loss / count, int(count)

    def evaluate_epoch(self, report: Report | None) -> None:
        started = time.monotonic()
        net = self._kept()
        try:
            top1, val_loss, self.evaluated = self._evaluate(net, self.prepare)
        except NotFinite as error:
            raise self._diverged("predictions are not finite") from error
        trained = self.seconds - sum(row["seconds"] for row in self.rows)
        row = {
            "epoch": self.epoch + 1, "loss": float(np.mean(self.losses)), "lr": self.optimizer.param_groups[0]["lr"],
            "top1": top1, "val_loss": val_loss,
            "images_per_second": len(self.losses) * self.config.batch_size / max(trained, 1e-9),
            "seconds": trained + time.monotonic() - started,
            "unreadable": self.unreadable,
        }  # fmt: skip
        self.seconds = sum(r["seconds"] for r in self.rows) + row["seconds"]
        self.rows.append(row)
        better = top1 > self.best[0]
        if better:
            self.best = (top1, self.epoch + 1)
        self.epoch, self.step, self.losses, self.unreadable = self.epoch + 1, 0, [], 0
        if self.accelerator.is_main_process:
            for name in (BEST, LAST) if better else (LAST,):
                self._write_network(net, name)
            write_file(self.folder / LOG_FILE, _csv(self.rows).encode())
            write_curves(self.rows, self.identity, self.folder)
            self._tensorboard(row)
            if report is not None:
                report(row)
        self.save()

    def _tensorboard(self, row: dict[str, float]) -> None:
        """Where the package is installed."""
        if find_spec("tensorboard") is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        with SummaryWriter(self.folder / "tensorboard", purge_step=int(row["epoch"])) as writer:
            for key in _COLUMNS[1:]:
                writer.add_scalar(key, row[key], int(row["epoch"]))

    def _write_network(self, net: nn.Module, name: str) -> None:
        make_folder(self.folder / name)
        write_files(self.folder / name, {"model.safetensors": weights_file(net), "config.json": self.description})

    # -- state

    def save(self) -> None:
        """Everything that the run goes on from, in one file that is there whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        tensors = {f"model/{k}": v for k, v in self.net.state_dict().items()}
        if self.ema is not None:
            tensors |= {f"ema/{k}": v for k, v in self.ema.module.state_dict().items()}
        if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
            raise self._diverged("weights are no longer finite")
        scaler = self.accelerator.scaler
        facts = {
            "identity": self.identity, "epoch": self.epoch, "step": self.step, "seconds": self.seconds,
            "best": self.best, "losses": self.losses, "rows": self.rows, "unreadable": self.unreadable,
            "teacher_top1": self.teacher_top1, "evaluated": self.evaluated,
            "optimizer": _packed(self.optimizer.state_dict(), "optimizer", tensors),
            "scaler": None if scaler is None else scaler.state_dict(),
        }  # fmt: skip
        held = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
        write_file(self.folder / STATE_FILE, safetensors.torch.save(held, metadata={"run": json.dumps(facts)}))

    def resume(self, identity: dict[str, Any]) -> None:
        """Go on from the state in the folder, if there is one.

        Raises:
            InputError: it is of another run, or damaged.
        """
        self.identity = json.loads(json.dumps(identity))
        path = self.folder / STATE_FILE
        if not path.exists():
            other = next((name for name in _OTHERS if (self.folder / name).exists()), None)
            if other is not None:
                raise InputError(f"output {str(self.folder)!r} holds {other}, of another verb; choose another folder")
            self.save()
            return
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads(file.metadata()["run"])
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise InputError(f"{path} is damaged ({error}); remove it to start again") from error
        if (facts["epoch"], facts["step"]) == (0, 0):  # nothing was done in it yet
            self.save()
            return
        for field, value in self.identity.items():
            if facts["identity"].get(field) != value:
                raise InputError(f"output {str(self.folder)!r} holds another run: {_difference(field, facts, value)}; "
                                 "choose another folder, or remove it")  # fmt: skip

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}

        self.net.load_state_dict(part("model"))
        if self.ema is not None:
            self.ema.module.load_state_dict(part("ema"))
        self.optimizer.load_state_dict(_unpacked(facts["optimizer"], tensors))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self.epoch, self.step, self.seconds = facts["epoch"], facts["step"], facts["seconds"]
        self.best, self.losses, self.rows = tuple(facts["best"]), facts["losses"], facts["rows"]
        self.unreadable, self.evaluated = facts["unreadable"], facts["evaluated"]
        self.teacher_top1 = facts["teacher_top1"]

    def check_together(self) -> None:
        """Every process must have found the same state."""
        if len({*gathered([(self.epoch, self.step)])}) > 1:
            raise InputError(f"output {str(self.folder)!r} is not the same folder for all processes; give one that all "
                             "machines share")  # fmt: skip

    def result(self) -> Trained:
        last = self.rows[-1]
        done = Trained(
            epochs=self.epoch, top1=last["top1"], best_top1=self.best[0], best_epoch=self.best[1],
            loss=last["val_loss"], train_loss=last["loss"], params=sum(p.numel() for p in self.net.parameters()),
            unreadable=int(last["unreadable"]), seconds=self.seconds, config=self.config,
            model=model_identity(self._kept()), parent=self.identity["source"],
            model_args=self.identity["model_args"], teacher=self.identity["teacher"], teacher_top1=self.teacher_top1,
            data=self.images.facts() | {"validation_images": self.evaluated},
        )  # fmt: skip
        if self.accelerator.is_main_process:
            content = {key: value for key, value in vars(done).items() if key != "config"}
            text = json.dumps(content | {"config": self.config.model_dump()}, indent=1)
            write_file(self.folder / RESULT_FILE, (text + "\n").encode())
        return done


def _csv(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: row[key] if key == "epoch" else f"{row[key]:.6g}" for key in _COLUMNS} for row in rows)
    return text.getvalue()


def _packed(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """An optimizer's state as plain JSON; its tensors go to `tensors`, under names that say where they were."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"items": [[key, _packed(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [_packed(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, str | int | float):
        return value
    raise InputError(f"opt: its state holds a {type(value).__name__}, which is not saved; choose another")


def _unpacked(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "list" in value:
        return [_unpacked(item, tensors) for item in value["list"]]
    return {key: _unpacked(item, tensors) for key, item in value["items"]}


def _difference(field: str, facts: dict[str, Any], value: Any) -> str:
    if field in ("network", "taught"):
        what = "network" if field == "network" else "teacher"
        return f"the {what} that is given is not the one that the run began with"
    have = facts["identity"].get(field)
    if isinstance(value, dict) and isinstance(have, dict):
        key = next(key for key in value | have if value.get(key) != have.get(key))
        return f"{field}.{key} is {have.get(key)!r} there, {value.get(key)!r} now"
    return f"{field} is {have!r} there, {value!r} now"


class _Teacher:
    """Logits of another network for the student's images."""

    def __init__(self, name: str | Path, student: nn.Module, prepare: Preprocessing, device: torch.device) -> None:
        try:
            self.net = _opened(name, pretrained=not _is_stored(name)).to(device)
        except InputError as error:
            raise InputError(f"teacher {str(name)!r} cannot be opened: {error}") from error
        self.net.requires_grad_(False)
        theirs, ours = input_shape(self.net), input_shape(student)
        if theirs != ours or count_classes(self.net) != count_classes(student):
            raise InputError(f"teacher {str(name)!r} takes {theirs} and knows {count_classes(self.net)} classes, the "
                             f"network {ours} and {count_classes(student)}; they must be the same")  # fmt: skip
        own = self.prepare = preprocessing(self.net, theirs, {})
        # from the student's normalisation to the teacher's
        scale = torch.tensor(prepare.std) / torch.tensor(own.std)
        shift = (torch.tensor(prepare.mean) - torch.tensor(own.mean)) / torch.tensor(own.std)
        self.scale, self.shift = (t[:, None, None].to(device) for t in (scale, shift))

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        return self.net(images * self.scale + self.shift).float()
