"""How well a network predicts, and how far it is from the network it was made from."""

# B images, C classes

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prune_realloc.checkpoints.facts import plain_facts
from prune_realloc.checkpoints.load import load_model
from prune_realloc.core.errors import InputError, NotFinite
from prune_realloc.core.files import json_file
from prune_realloc.core.names import PREPROCESSING, Progress
from prune_realloc.core.taken import fact_name
from prune_realloc.data.batches import Batch
from prune_realloc.data.preprocessing import preprocessing
from prune_realloc.data.stream import ImageStream
from prune_realloc.families.inputs import input_shape
from prune_realloc.recipe.document import Data, Source
from prune_realloc.recipe.options import read_options
from prune_realloc.results.opening import Reading, open_network, open_stream, with_shipped_images
from prune_realloc.runtime.device import out_of_memory_named, pick_device
from prune_realloc.runtime.networks import class_logits, count_classes, evaluation_mode, model_identity

EVAL_FILE = "eval.json"


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Means over images. What could not be measured is None."""

    samples: int
    top1: float | None = None
    """Share of images whose label has the largest logit."""
    top5: float | None = None
    """Share of images whose label is among the five largest logits; None with five classes or fewer."""
    loss: float | None = None
    """Cross-entropy, nats per image."""
    source_top1: float | None = None
    agreement: float | None = None
    """Share of images on which the model and its source have the same top-1."""
    kl: float | None = None
    """KL(source || model), nats per image."""
    model: Mapping[str, Any] | None = None
    source: Mapping[str, Any] | None = None
    data: Mapping[str, Any] | None = None
    """Name, split, preprocessing and a checksum of the images."""
    notes: tuple[str, ...] = ()
    taken: Mapping[str, Mapping[str, Any]] | None = None
    """What the run went by, as an analysis has it."""
    source_taken: Mapping[str, Mapping[str, Any]] | None = None
    """What was taken of the source."""

    @property
    def title(self) -> str:
        """On which images."""
        where = f" of {self.data.get('name')}, {self.data.get('split')}" if self.data else ""
        return f"{self.samples} images{where}"

    def rows(self) -> list[tuple[str, str]]:
        """What was measured, in words and numbers."""
        values = [
            ("top-1", self.top1, "{:.2%}"),
            ("top-5", self.top5, "{:.2%}"),
            ("loss, nats", self.loss, "{:.4f}"),
            ("top-1 of the source", self.source_top1, "{:.2%}"),
            ("agreement with the source", self.agreement, "{:.2%}"),
            ("KL(source || model), nats", self.kl, "{:.2g}"),
        ]
        return [(name, form.format(value)) for name, value, form in values if value is not None]

    def file(self) -> bytes:
        """The content of `EVAL_FILE`."""
        return json_file(dataclasses.asdict(self))


class Predictions:
    """What a network that stays as it is says of images, found once: 8 bytes for each image and class."""

    def __init__(self, net: nn.Module) -> None:
        self.net = net
        self._known: dict[tuple[int, ...], Tensor] = {}

    def of(self, batch: Batch) -> Tensor:
        """Log-probabilities (B, C), float64, where the network lies.

        Raises:
            NotFinite: logits are not finite.
        """
        assert len(batch.checksums) == len(batch.images)
        if batch.checksums not in self._known:
            images = batch.images.to(next(self.net.parameters()).device)
            self._known[batch.checksums] = log_probabilities(self.net, images)
        return self._known[batch.checksums]


def measure(
    model: nn.Module, batches: Iterable[Batch], *, labelled: bool, source: Predictions | None = None
) -> Evaluation:
    """Streams `batches` through `model`, and through the network of `source` where that does not know them yet.

    Args:
        model: a classifier; runs where its parameters lie, in evaluation mode, and is put back.
        batches: at least one image in all.
        labelled: the batches' labels are the model's classes; without it there is no top-1, top-5 and loss.
        source: of a classifier of the same classes, on the same device.

    Raises:
        NotFinite: logits are not finite.
    """
    device = next(model.parameters()).device
    values: dict[str, list[Tensor]] = defaultdict(list)
    samples = 0
    models = (model,) if source is None else (model, source.net)
    with evaluation_mode(*models), torch.inference_mode():
        for batch in batches:
            images, labels = batch.images.to(device), batch.labels.to(device)
            log_ps = [log_probabilities(model, images), *([] if source is None else [source.of(batch)])]
            for name, value in _per_image(log_ps, labels if labelled else None).items():
                values[name].append(value.double())
            samples += len(images)
    means: dict[str, Any] = {name: float(torch.cat(parts).mean()) for name, parts in values.items()}
    return Evaluation(samples=samples, **means)


def log_probabilities(model: nn.Module, images: Tensor) -> Tensor:
    """(B, C), float64.

    Raises:
        NotFinite: logits are not finite.
    """
    logits = class_logits(model(images))
    if not torch.isfinite(logits).all():
        raise NotFinite("the model's predictions are not finite: its activations overflow on these images")
    return F.log_softmax(logits.double(), dim=1)


def _per_image(log_ps: list[Tensor], labels: Tensor | None) -> dict[str, Tensor]:
    """The fields of Evaluation, one value per image; `log_ps` of the model and, where there is one, its source."""
    log_p = log_ps[0]
    best = [_five_best(log_p) for log_p in log_ps]
    found = {}
    if labels is not None:
        hits = best[0] == labels[:, None]
        found["top1"] = hits[:, 0]
        found["loss"] = F.nll_loss(log_p, labels, reduction="none")
        if log_p.shape[1] > 5:
            found["top5"] = hits.any(1)
    if len(log_ps) == 2:
        log_q = log_ps[1]
        found["agreement"] = best[0][:, 0] == best[1][:, 0]
        found["kl"] = divergence(log_q, log_p)
        if labels is not None:
            found["source_top1"] = best[1][:, 0] == labels
    return found


def divergence(log_q: Tensor, log_p: Tensor) -> Tensor:
    """KL(q || p) of log-probabilities (B, C), nats per image, (B,)."""
    return (log_q.exp() * (log_q - log_p)).sum(1)


def _five_best(log_p: Tensor) -> Tensor:
    """(B, up to 5) classes, best first; of equal ones the first, so that a tie is decided alike everywhere."""
    return log_p.argsort(dim=1, descending=True, stable=True)[:, :5]


def evaluate(
    model: nn.Module | Source | str | None = None,
    *,
    source: nn.Module | Source | str | Path | None = None,
    data: str | Path | Data | None = None,
    batch_size: int = 64,
    workers: int = 0,
    device: str = "auto",
    progress: Progress | None = None,
    **options: Any,
) -> Evaluation:
    """Top-1, top-5 and loss of a network on labelled images, and its distance to its source.

    Args:
        model: a network, or timm's name of one. With neither `model` nor `ckpt`, the shipped network is evaluated on
            the shipped images.
        source: the network that this one was made from, or its checkpoint, or a whole Source where it has arguments
            of its own, or `demo`: the shipped network. Sees the same images in the same preprocessing.
        data: the images, as in `open_images`.
        batch_size, workers: images at a time, and the processes that read them.
        device: `auto`, `cpu` or `cuda`.
        progress: told how many images are done.
        options: fields of `recipe.Source` and `recipe.Data` by name, with their meaning there: `ckpt`, `pretrained`,
            `ema`, `img_size`, `model_args`; `split`, by default validation; `data_dir`, `seed`, `preprocess`;
            `samples`, by default all; `class_map`, `class_order`; `labels`, without which a source is needed. Or
            `model` is a whole Source, `data` a whole Data.

    Raises:
        InputError: the model, the source, the data or an option cannot be used; the message says what to change.
    """
    reading = Reading(batch_size=batch_size, workers=workers, progress=progress)
    opened, images = read_options(
        None if isinstance(model, nn.Module) else model, data, options, {"split": "validation"}
    )
    target = pick_device(device)
    net = model if isinstance(model, nn.Module) else open_network(opened)
    origin = None if source is None else load_source(source, img_size=opened.img_size)
    if origin is not None:
        _check_comparable(net, origin)
    if not isinstance(model, nn.Module):
        images = with_shipped_images(images, opened)
    stream = _labelled_stream(net, origin, images, reading)
    labelled = stream.classes is not None
    nets = (net,) if origin is None else (net, origin)
    with evaluation_mode(*nets, device=target), out_of_memory_named(batch_size):
        measured = measure(net, stream, labelled=labelled, source=None if origin is None else Predictions(origin))
    notes = stream.notes()
    if origin is not None and preprocessing(origin, input_shape(origin), images.preprocess or {}) != stream.prepare:
        notes.append("the source's own preprocessing is another; both saw the images in the model's")
    return dataclasses.replace(
        measured,
        model=model_identity(net) | {"ckpt": opened.ckpt},
        source=None if origin is None else model_identity(origin),
        data={"split": images.split} | stream.facts(),
        notes=tuple(notes),
        taken=plain_facts(net, stream.taken()),
        source_taken=None if origin is None else source_facts(origin),
    )


def _labelled_stream(net: nn.Module, origin: nn.Module | None, data: Data, reading: Reading) -> ImageStream:
    """The images that a classifier is evaluated on: labelled, or seen by its source too."""
    if not count_classes(net):
        raise InputError(
            "the model has no classifier, so there is no prediction to evaluate; `train --num-classes N` gives it one"
        )
    if data.name is None:
        raise InputError("data is missing; name images with --data")
    stream = open_stream(net, data, reading, data.samples if "samples" in data.model_fields_set else None)
    if stream.classes is None and origin is None:
        raise InputError(
            f"data {stream.images.name!r} gives no labels; give labelled images, or --source to compare with"
        )
    return stream


def load_source(source: nn.Module | Source | str | Path, img_size: int | tuple[int, int] | None = None) -> nn.Module:
    """The network to compare with: itself, from its checkpoint, or for `demo` the shipped one."""
    if isinstance(source, nn.Module):
        return source
    if isinstance(source, Source):
        return open_network(source.model_copy(update={"img_size": source.img_size or img_size}))
    return load_model(ckpt=None if str(source) == "demo" else source, img_size=img_size)


def source_facts(source: nn.Module) -> dict[str, dict[str, Any]]:
    """What was taken of the source, ready for JSON; without its preprocessing, since it sees images in the model's."""
    unused = {*map(fact_name, PREPROCESSING)}
    return {name: fact for name, fact in plain_facts(source).items() if name not in unused}


def require_same_input(net: nn.Module, source: nn.Module) -> None:
    """Raises InputError where the two take images of different shapes."""
    if input_shape(net) != input_shape(source):
        raise InputError(
            f"source takes images of shape {input_shape(source)}, the model {input_shape(net)}; they must be equal, "
            "see --img-size"
        )


def _check_comparable(net: nn.Module, source: nn.Module) -> None:
    require_same_input(net, source)
    if count_classes(net) != count_classes(source):
        raise InputError(
            f"source has {count_classes(source)} classes, the model {count_classes(net)}; give the model's own source"
        )
