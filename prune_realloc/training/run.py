"""Network, optimizer, averaged weights and place of one training run."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors import SafetensorError, safe_open
from timm.data import Mixup
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, dispatch_clip_grad
from torch import Tensor, nn

from prune_realloc.checkpoints.save import network_files, weights_file
from prune_realloc.core.errors import InputError, NotFinite, WorkFailed
from prune_realloc.core.files import make_folder, write_file, write_files
from prune_realloc.core.names import STATE_FILE
from prune_realloc.data.batches import Batch, iterate
from prune_realloc.data.preprocessing import Preprocessing
from prune_realloc.data.stream import check_labels
from prune_realloc.results.evaluate import measure
from prune_realloc.results.page import write_curves
from prune_realloc.runtime.distributed import broadcast_, gathered, place, summed
from prune_realloc.runtime.networks import count_classes, model_identity
from prune_realloc.training.config import TrainConfig
from prune_realloc.training.images import Augmented, TrainingImages, check_unreadable, drawn_from, epoch_order
from prune_realloc.training.state import (
    BEST,
    COLUMNS,
    LAST,
    LOG_FILE,
    OTHERS,
    RESULT_FILE,
    Report,
    Trained,
    first_difference,
    pack_state,
    rows_as_csv,
    unpack_state,
)
from prune_realloc.training.teacher import Teacher


class Run:
    """Network, optimizer, averaged weights and place of one run."""

    def __init__(
        self,
        accelerator: Accelerator,
        config: TrainConfig,
        net: nn.Module,
        description: bytes,
        images: TrainingImages,
        teacher: str | Path | None,
        folder: Path,
    ) -> None:
        self.accelerator, self.config, self.images, self.folder = accelerator, config, images, folder
        self.description, prepare = description, images.fit(net)
        if (config.distill != "none") != (teacher is not None):
            raise InputError(
                "distill: needs a teacher, and a teacher needs distill; give --teacher and distill=soft or hard"
            )
        rank, world = accelerator.process_index, accelerator.num_processes
        if config.batch_size % (world * config.accumulate):
            raise InputError(
                f"batch_size {config.batch_size} is not a multiple of {world} processes x accumulate "
                f"{config.accumulate}"
            )
        mix = config.mixup > 0 or config.cutmix > 0
        if mix and config.batch_size % (2 * world):
            raise InputError(
                f"batch_size {config.batch_size} is not even in each of {world} processes; mixup and "
                "cutmix pair the images"
            )
        self.rank, self.world = rank, world
        self.at_once = config.batch_size // (world * config.accumulate)
        """Images that a process computes together."""
        norms = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules())
        if norms and self.at_once < 2:
            raise InputError(
                f"batch_size {config.batch_size} leaves one image for each of {world} processes x "
                f"accumulate {config.accumulate}; batch norms need two"
            )
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
            optimizer,
            sched="cosine" if config.sched == "cosine" else "step",
            decay_epochs=config.epochs + 1,
            num_epochs=config.epochs,
            warmup_epochs=config.warmup_epochs,
            warmup_lr=config.warmup_lr,
            min_lr=config.min_lr,
            step_on_epochs=False,
            updates_per_epoch=self.steps,
        )[0]
        self.ema = ModelEmaV3(self.net, decay=config.ema, use_warmup=True) if config.ema else None
        self.mixup = (
            Mixup(config.mixup, config.cutmix, label_smoothing=config.smoothing, num_classes=count_classes(net))
            if mix
            else None
        )
        self.teacher = None if teacher is None else Teacher(teacher, net, prepare, accelerator.device)
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
            for batch in iterate(
                source,
                prepare,
                samples=source.count,
                batch_size=min(256, self.at_once),
                seed=0,
                workers=self.config.workers,
                part=place(),
            ):
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
            "epoch": self.epoch + 1,
            "loss": float(np.mean(self.losses)),
            "lr": self.optimizer.param_groups[0]["lr"],
            "top1": top1,
            "val_loss": val_loss,
            "images_per_second": len(self.losses) * self.config.batch_size / max(trained, 1e-9),
            "seconds": trained + time.monotonic() - started,
            "unreadable": self.unreadable,
        }
        self.seconds = sum(r["seconds"] for r in self.rows) + row["seconds"]
        self.rows.append(row)
        better = top1 > self.best[0]
        if better:
            self.best = (top1, self.epoch + 1)
        self.epoch, self.step, self.losses, self.unreadable = self.epoch + 1, 0, [], 0
        if self.accelerator.is_main_process:
            for name in (BEST, LAST) if better else (LAST,):
                self._write_network(net, name)
            write_file(self.folder / LOG_FILE, rows_as_csv(self.rows).encode())
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
            for key in COLUMNS[1:]:
                writer.add_scalar(key, row[key], int(row["epoch"]))

    def _write_network(self, net: nn.Module, name: str) -> None:
        make_folder(self.folder / name)
        write_files(self.folder / name, network_files(self.description, weights_file(net)))

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
            "identity": self.identity,
            "epoch": self.epoch,
            "step": self.step,
            "seconds": self.seconds,
            "best": self.best,
            "losses": self.losses,
            "rows": self.rows,
            "unreadable": self.unreadable,
            "teacher_top1": self.teacher_top1,
            "evaluated": self.evaluated,
            "optimizer": pack_state(self.optimizer.state_dict(), "optimizer", tensors),
            "scaler": None if scaler is None else scaler.state_dict(),
        }
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
            other = next((name for name in OTHERS if (self.folder / name).exists()), None)
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
                raise InputError(
                    f"output {str(self.folder)!r} holds another run: {first_difference(field, facts, value)}; "
                    "choose another folder, or remove it"
                )

        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}

        self.net.load_state_dict(part("model"))
        if self.ema is not None:
            self.ema.module.load_state_dict(part("ema"))
        self.optimizer.load_state_dict(unpack_state(facts["optimizer"], tensors))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(facts["scaler"])
        self.epoch, self.step, self.seconds = facts["epoch"], facts["step"], facts["seconds"]
        self.best, self.losses, self.rows = tuple(facts["best"]), facts["losses"], facts["rows"]
        self.unreadable, self.evaluated = facts["unreadable"], facts["evaluated"]
        self.teacher_top1 = facts["teacher_top1"]

    def check_together(self) -> None:
        """Every process must have found the same state."""
        if len({*gathered([(self.epoch, self.step)])}) > 1:
            raise InputError(
                f"output {str(self.folder)!r} is not the same folder for all processes; give one that all "
                "machines share"
            )

    def result(self) -> Trained:
        last = self.rows[-1]
        done = Trained(
            epochs=self.epoch,
            top1=last["top1"],
            best_top1=self.best[0],
            best_epoch=self.best[1],
            loss=last["val_loss"],
            train_loss=last["loss"],
            params=sum(p.numel() for p in self.net.parameters()),
            unreadable=int(last["unreadable"]),
            seconds=self.seconds,
            config=self.config,
            model=model_identity(self._kept()),
            parent=self.identity["source"],
            model_args=self.identity["model_args"],
            teacher=self.identity["teacher"],
            teacher_top1=self.teacher_top1,
            data=self.images.facts() | {"validation_images": self.evaluated},
        )
        if self.accelerator.is_main_process:
            content = {key: value for key, value in vars(done).items() if key != "config"}
            text = json.dumps(content | {"config": self.config.model_dump()}, indent=1)
            write_file(self.folder / RESULT_FILE, (text + "\n").encode())
        return done
