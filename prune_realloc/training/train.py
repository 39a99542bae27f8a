"""The verb `train`: a network and images -> a trained network, on accelerate, with timm's parts; resumable bit for bit.

Every draw is a function of the seed, the epoch and the image, or of the seed and the step, and never of a generator's
history. So the place in the data is one number, and a run that was killed goes on as if it had not been.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn

from prune_realloc.checkpoints.create import replace_head_
from prune_realloc.checkpoints.load import new_model
from prune_realloc.checkpoints.rebuild import builder
from prune_realloc.checkpoints.save import describe
from prune_realloc.core.errors import InputError, WorkFailed, require_at_least
from prune_realloc.core.files import clear_half_written, make_folder
from prune_realloc.core.names import STATE_FILE
from prune_realloc.data.labels import Naming, naming_of
from prune_realloc.runtime.device import out_of_memory_named, pick_device
from prune_realloc.runtime.distributed import process_group
from prune_realloc.runtime.global_state import own_accelerate_state, random_state_kept
from prune_realloc.runtime.networks import count_classes, model_identity
from prune_realloc.training.config import TrainConfig
from prune_realloc.training.images import TrainingImages
from prune_realloc.training.outputs import BEST, LAST, Report, Trained
from prune_realloc.training.run import Run
from prune_realloc.training.setup import Setup, set_up
from prune_realloc.training.state import Identity
from prune_realloc.training.state_file import FREE
from prune_realloc.training.teacher import is_stored, is_untrained, open_student

_LOG = logging.getLogger(__name__)


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
    class_map: str | None = None,
    class_order: str | None = None,
    teacher: str | Path | None = None,
    teacher_options: Mapping[str, Any] | None = None,
    model: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    num_classes: int | None = None,
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
        data: as in `open_images`; with labels, or with a teacher, whose predictions are then all that is learnt.
            A network without a classifier learns the teacher's features, and no labels are read.
        data_dir: as in `open_images`.
        split: part of the data set that is trained on.
        eval_split: part that is evaluated; where there are neither parts nor labels, a tenth of the images is held out.
        samples: train on the first so many of the images in an order drawn by seed 0; None: all. Where `eval_split` is
            `held-out`, others of the split are evaluated, up to `HELD_OUT`.
        class_map: as in `recipe.Data`.
        class_order: as in `recipe.Data`; names of the classes in `source` go before it.
        teacher: checkpoint, `demo`, or timm name of the network to distil from.
        teacher_options: how its checkpoint is opened: `model`, `model_args`, `ema`, `img_size` as in `load_model`.
        model: architecture of a checkpoint that does not say it, as in `load_model`.
        model_args: more arguments for `timm.create_model`, such as `{"img_size": 64}`.
        num_classes: classes of a new head, 1 for a single logit that tells two apart. Default: the data's; where these
            are as many as the network's, its head stays. A network without a head gets one only if this is given.
        save_seconds: least time between two saves of the state inside an epoch.

    Raises:
        InputError: network, data, teacher or configuration do not fit, or `out` holds another run.
        WorkFailed: the loss is no longer finite, the disk is full, or images have gone; the last state stands.
    """
    _require_name("source", source)
    if teacher is not None:
        _require_name("teacher", teacher)
    elif teacher_options:
        raise InputError("teacher_options: no teacher is named; give one with --teacher")
    where, folder = pick_device(device), Path(out)
    with random_state_kept(where), process_group(where), own_accelerate_state():
        accelerator = _accelerator(config, where)
        arguments = dict(model_args or {})
        _require_bare(source, model)
        net = _student(source, config, 0, arguments, model) if is_stored(source) else None
        naming = Naming(class_map=class_map, class_order=class_order)
        naming = _naming(naming, net, str(source), num_classes, taught=teacher is not None)
        images = TrainingImages(data, data_dir, split, eval_split, samples, naming, taught=teacher is not None)
        classes = images.source.num_classes or max(images.source.least_classes, images.validation.least_classes)
        _require_logits(num_classes, classes, data)
        net = _student(source, config, num_classes or classes, arguments) if net is None else net
        _fit_head_(net, str(source), config, num_classes, classes)
        names = images.source.class_names if len(images.source.class_names) == count_classes(net) else ()
        new = not is_stored(source) and is_untrained(source)
        shown = describe(net, *builder(net), own_weights=new, class_names=names)
        setup = set_up(
            accelerator,
            config,
            net,
            description=shown,
            images=images,
            teacher=teacher,
            teacher_options=teacher_options or {},
            source=source,
            folder=folder,
        )
        built = {"model": model, "model_args": arguments}
        identity = _identity(setup, str(source), built, teacher, teacher_options or None)
        if accelerator.is_main_process:
            _ready(folder)
        run = Run(setup, identity, report, save_seconds)
        run.resume()
        remedy = "set accumulate higher or batch_size lower, in another folder"
        with out_of_memory_named(config.batch_size, remedy), _state_named(folder):
            return run.finish()


def _require_name(field: str, given: Any) -> None:
    """Raises InputError where a network itself is given: a run that goes on later must be able to open it again."""
    if not isinstance(given, str | Path):
        raise InputError(
            f"{field} is a {type(given).__name__}; give a folder, a checkpoint or timm's name. A network at hand is "
            "written to a folder with save_pruned"
        )


def _require_bare(source: str | Path, model: str | None) -> None:
    """Raises InputError where an architecture is given to what says its own."""
    if model is not None and not Path(source).is_file():
        raise InputError(
            f"model: source {str(source)!r} is no file of weights, only such a file is given an architecture; leave "
            f"--model {model} out, or name the file"
        )


def _identity(
    setup: Setup,
    source: str,
    built: Mapping[str, Any],
    teacher: str | Path | None,
    teacher_options: Mapping[str, Any] | None,
) -> Identity:
    """`built`: how the network is opened beside its name."""
    facts = {
        "source": source,
        **built,
        "config": setup.config.model_dump(exclude={*FREE}),
        "data": setup.images.facts(),
        "teacher": None if teacher is None else str(teacher),
        "teacher_options": None if teacher_options is None else dict(teacher_options),
        "processes": setup.accelerator.num_processes,
        "network": model_identity(setup.net),
        "taught": None if setup.teacher is None else model_identity(setup.teacher.net),
    }
    found: Identity = json.loads(json.dumps(facts))  # with lists for tuples
    return found


def _ready(folder: Path) -> None:
    """The folder is there, and what a killed run had written half is gone."""
    make_folder(folder)
    for written in (folder, folder / BEST, folder / LAST):
        clear_half_written(written)


@contextmanager
def _state_named(folder: Path) -> Iterator[None]:
    """Says what is left, and how to go on, when a disk is full or images cannot be read in the middle of a run."""
    try:
        yield
    except (InputError, OSError) as error:
        raise WorkFailed(
            f"{error} ({folder / STATE_FILE} is whole: once that is mended, the same command goes on from it)"
        ) from error


def _accelerator(config: TrainConfig, device: torch.device) -> Accelerator:
    if config.precision == "fp16" and device.type == "cpu":
        raise InputError("precision 'fp16' needs a GPU; choose bf16 or float32")
    precision = "no" if config.precision == "float32" else config.precision
    found = Accelerator(cpu=device.type == "cpu", mixed_precision=precision)
    if found.distributed_type not in (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU):
        raise InputError(
            f"accelerate is set to {found.distributed_type.value}, in which a run could not go on; choose "
            "multi-GPU or no distribution (accelerate config)"
        )
    return found


def _naming(given: Naming, net: Any, source: str, num_classes: int | None, taught: bool) -> Naming:
    """What is known of the labels: of a network with a head, what it has learnt; a new head takes any order.

    Raises:
        InputError: there is no head, none is asked for, and no teacher has features to learn.
    """
    require_at_least("num_classes", num_classes, 1)
    have = None if net is None else int(net.num_classes or 0)
    if have == 0 and num_classes is None:
        if not taught:
            raise InputError(
                f"source {source!r} has no classifier; give it one with --num-classes, or with --teacher "
                "the network whose features it shall have"
            )
        return replace(given, wanted=False)
    new = is_untrained(source) or (num_classes is not None and num_classes != have)
    # a teacher has learnt an order, too
    found = given if new or net is None else naming_of(net, True, given.class_map, given.class_order)
    return replace(found, free=new and not taught)


def _require_logits(num_classes: int | None, classes: int, data: str) -> None:
    """Raises InputError where a new head has fewer logits than the data has classes; of one, two are told apart."""
    if num_classes is None or classes <= max(num_classes, 2):
        return
    one = "one logit, which tells two classes apart" if num_classes == 1 else "fewer than there are classes"
    raise InputError(f"num_classes {num_classes} is {one}: data {data!r} has {classes}; give --num-classes {classes}")


def _fit_head_(net: Any, source: str, config: TrainConfig, num_classes: int | None, classes: int) -> None:
    """A new head where the network has another number of classes than it is to tell apart, which is said."""
    have = int(net.num_classes or 0)
    wanted = num_classes or (have if classes in (0, count_classes(net)) else classes)
    if wanted == have:
        return
    torch.manual_seed(config.seed)
    replace_head_(net, wanted)
    _LOG.warning("note: the head is new, %d logits with fresh weights; %s has %s", wanted, source, have or "none")


def _student(
    source: str | Path, config: TrainConfig, classes: int, model_args: Mapping[str, Any], model: str | None = None
) -> nn.Module:
    """The network at `source`; without weights of its own it starts from `seed`. One of timm's gets `classes`."""
    torch.manual_seed(config.seed)
    more = dict(model_args) if config.drop_rate is None else {"drop_rate": config.drop_rate} | dict(model_args)
    stored = is_stored(source)
    if stored and "num_classes" in more:
        raise InputError("model_args: num_classes is what the checkpoint has; give --num-classes for a new head")
    if not stored and classes:
        more = {"num_classes": classes} | more
    net = new_model(source, model_args=more) if stored and is_untrained(source) else open_student(source, more, model)
    if config.distill != "none" and hasattr(net, "set_distilled_training"):
        cast("Any", net).set_distilled_training(True)  # DeiT's second token
    if config.grad_checkpointing:
        try:
            cast("Any", net).set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise InputError(f"grad_checkpointing: {type(net).__name__} does not offer it; leave it out") from error
    return net
