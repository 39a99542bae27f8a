"""One run from its first step, or from where its state stands, to its result."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from prune_realloc.checkpoints.facts import plain_facts
from prune_realloc.core.errors import InputError, NotFinite, WorkFailed
from prune_realloc.core.files import write_file
from prune_realloc.core.names import STATE_FILE
from prune_realloc.data.stream import check_labels
from prune_realloc.runtime.distributed import gathered, summed
from prune_realloc.runtime.networks import count_classes, model_identity
from prune_realloc.training.curves import write_curves
from prune_realloc.training.evaluation import validate
from prune_realloc.training.images import epoch_order
from prune_realloc.training.outputs import (
    BEST,
    LAST,
    LOG_FILE,
    Likeness,
    Report,
    Row,
    Trained,
    rows_as_csv,
    write_network,
    write_result,
    write_tensorboard,
)
from prune_realloc.training.reading import check_unreadable
from prune_realloc.training.setup import Setup
from prune_realloc.training.state import Identity, RunState
from prune_realloc.training.state_file import read_state, write_state
from prune_realloc.training.step import one_step
from prune_realloc.training.teacher import is_untrained


@dataclass
class Run:
    """A setup, which run it is, and where it stands."""

    setup: Setup
    identity: Identity
    report: Report | None = None
    """Called on the main process only."""
    save_seconds: float = 60.0
    """Least time between two saves of the state inside an epoch."""
    state: RunState = field(default_factory=RunState)

    def finish(self) -> Trained:
        """Train and evaluate what is left of the epochs, and write the result."""
        self._evaluate_first()
        while self.state.epoch < self.setup.config.epochs:
            self._train_epoch()
            self._evaluate_epoch()
        done = self._result()
        if self._is_main:
            write_result(self.setup.folder, done)
        return done

    def resume(self) -> None:
        """Go on from the state in the folder, if there is one; else write the first.

        Raises:
            InputError: it is of another run, or damaged, or not every process found the same.
        """
        found = read_state(self.setup, self.identity)
        if found is None:
            self._save()
        else:
            self.state = found
        if len({*gathered([(self.state.epoch, self.state.step)])}) > 1:
            raise InputError(
                f"output {str(self.setup.folder)!r} is not the same folder for all processes; give one that all "
                "machines share"
            )

    def _train_epoch(self) -> None:
        state = self.state
        saved = started = time.monotonic()
        before = state.seconds
        self.setup.wrapped.train()
        for images, labels, replaced in self._loader():
            self._one_step(images, labels, replaced)
            state.seconds = before + time.monotonic() - started
            if state.step % 10 == 0:
                done = state.step / self.setup.steps
                self._tell({"epoch": state.epoch + 1, "done": done, "loss": float(np.mean(state.losses[-50:]))})
            if time.monotonic() - saved >= self.save_seconds and state.step < self.setup.steps:
                self._save()
                saved = time.monotonic()
        self._save()

    def _loader(self) -> torch.utils.data.DataLoader:
        """This process's images of the steps that are left of the epoch."""
        setup, accelerator = self.setup, self.setup.accelerator
        batches = epoch_order(setup.images.chosen, setup.config, self.state.epoch)[self.state.step :]
        return torch.utils.data.DataLoader(
            setup.dataset,
            batch_sampler=[batch[accelerator.process_index :: accelerator.num_processes] for batch in batches],
            collate_fn=torch.utils.data.default_convert,
            num_workers=setup.config.workers,
            pin_memory=torch.cuda.is_available(),
        )

    def _one_step(self, images: Tensor, labels: Tensor, replaced: Tensor) -> None:
        state, setup, source = self.state, self.setup, self.setup.images.source
        state.unreadable += int(summed(replaced.sum()))
        check_unreadable(state.unreadable, len(setup.images.chosen), source.name)
        if setup.images.labelled:
            check_labels(labels, setup.classes, source.name, "give images of its classes")
        state.losses.append(one_step(setup, images, labels, state.epoch * setup.steps + state.step))
        state.step += 1
        if not math.isfinite(state.losses[-1]):
            raise self._diverged(f"the loss is {state.losses[-1]}")

    def _evaluate_first(self) -> None:
        """Before the first step: what is trained, unless its weights are new, and with labels the teacher, so that one
        of other classes shows."""
        setup, state, teacher = self.setup, self.state, self.setup.teacher
        if (state.epoch, state.step) == (0, 0) and not is_untrained(self.identity["source"]):
            found = validate(setup, setup.kept, setup.prepare)
            state.before = (found.score, found.loss)
        if setup.images.labelled and teacher is not None and state.teacher_top1 is None:
            state.teacher_top1 = validate(setup, teacher.net, teacher.prepare).score

    def _evaluate_epoch(self) -> None:
        setup, state = self.setup, self.state
        started = time.monotonic()
        try:
            found = validate(setup, setup.kept, setup.prepare)
        except NotFinite as error:
            raise self._diverged("predictions are not finite") from error
        state.evaluated = found.images
        better = state.end_epoch(
            lr=setup.optimizer.param_groups[0]["lr"],
            measure=setup.measure,
            score=found.score,
            val_loss=found.loss,
            batch_size=setup.config.batch_size,
            evaluation=time.monotonic() - started,
        )
        if self._is_main:
            self._write_epoch((BEST, LAST) if better else (LAST,))
        self._tell(state.rows[-1])
        self._save()

    def _write_epoch(self, names: tuple[str, ...]) -> None:
        """The network into folders of these names, and the log."""
        folder, rows = self.setup.folder, self.state.rows
        for name in names:
            write_network(folder / name, self.setup.kept, self.setup.description, self.setup.units)
        write_file(folder / LOG_FILE, rows_as_csv(rows).encode())
        write_curves(rows, self.identity, folder)
        write_tensorboard(folder, rows[-1])

    @property
    def _is_main(self) -> bool:
        """Whether this process is the one that writes and reports."""
        return self.setup.accelerator.is_main_process

    def _tell(self, row: Row) -> None:
        if self.report is not None and self._is_main:
            self.report(row)

    def _save(self) -> None:
        if self._is_main and not write_state(self.setup, self.state, self.identity):
            raise self._diverged("weights are no longer finite")

    def _diverged(self, what: str) -> WorkFailed:
        return WorkFailed(
            f"{what} in epoch {self.state.epoch + 1}, step {self.state.step}; lower lr, raise warmup_epochs, or clip "
            f"gradients, in another folder ({self.setup.folder / STATE_FILE} and the networks beside it are from "
            "before)"
        )

    def _result(self) -> Trained:
        setup, state, last = self.setup, self.state, self.state.rows[-1]
        return Trained(
            epochs=state.epoch,
            top1=last.get("top1"),
            best_top1=state.best[0] if setup.images.labelled else None,
            before_top1=state.before[0] if setup.images.labelled and state.before is not None else None,
            likeness=self._likeness(),
            best_epoch=state.best[1],
            loss=last["val_loss"],
            train_loss=last["loss"],
            params=sum(p.numel() for p in setup.net.parameters()),
            classes=count_classes(setup.net),
            unreadable=int(last["unreadable"]),
            seconds=state.seconds,
            config=setup.config,
            model=model_identity(setup.kept),
            parent=self.identity["source"],
            architecture=self.identity["model"],
            model_args=self.identity["model_args"],
            teacher=self.identity["teacher"],
            teacher_options=self.identity["teacher_options"],
            teacher_top1=state.teacher_top1,
            data=setup.images.facts() | {"validation_images": state.evaluated},
            taken=plain_facts(setup.net, setup.images.taken()),
            teacher_taken=None if setup.teacher is None else plain_facts(setup.teacher.net),
        )

    def _likeness(self) -> Likeness | None:
        setup, state = self.setup, self.state
        if state.before is None or setup.images.labelled:
            return None
        score, loss = state.before
        return Likeness(
            measure=setup.measure,
            before=score,
            last=state.rows[-1][setup.measure],
            best=state.best[0],
            loss_before=loss,
        )
