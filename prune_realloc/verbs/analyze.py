"""The verb `analyze`: a network and images -> an Analysis."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import Progress
from prune_realloc.core.structure import site_place
from prune_realloc.core.taken import Fact, plain_taken
from prune_realloc.data.calibration import Calibration
from prune_realloc.data.own_batches import Inputs
from prune_realloc.families import family_of
from prune_realloc.families.host import adopted, find_host
from prune_realloc.pruning.examine import check_scorer, examine
from prune_realloc.pruning.objectives import Loss
from prune_realloc.pruning.scorers import DEFAULT_SCORER, GRADIENT_SCORERS, WEIGHT_SCORERS
from prune_realloc.recipe.document import Data, Source
from prune_realloc.recipe.options import SOURCE_OPTIONS, read_options
from prune_realloc.results.opening import Reading, open_network, with_shipped_images
from prune_realloc.runtime.device import pick_device
from prune_realloc.runtime.networks import evaluation_mode
from prune_realloc.verbs.own import Own, open_calibration, plain_taken_of


def analyze(
    model: nn.Module | Source | str | None = None,
    *,
    data: str | Path | Data | None = None,
    batches: Iterable[Any] | None = None,
    loss: Loss | None = None,
    inputs: Inputs | None = None,
    scorer: str = DEFAULT_SCORER,
    batch_size: int = 32,
    workers: int = 0,
    device: str = "auto",
    amp: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Analysis:
    """Score every unit of every site of a trained ViT.

    Args:
        model: a network, or timm's name of one; with `batches`, also one of your own that holds a supported one. With
            neither `model` nor `ckpt`, the shipped network is analysed on the shipped images.
        data: the images, as in `open_images`; needed by every scorer that looks at images.
        batches: instead, a loader or a list of batches: images (B, C, H, W), prepared for the network, or tuples that
            begin with them. An iterator is kept in memory. All are taken, or whole ones up to `samples`.
        loss: of (output of the network, batch): a tensor (B,) with one loss for each image, differentiable. Without,
            it is the cross-entropy of a classifier at the second entry of the batches, integers (B,), or draws.
        inputs: of a batch: its images; for dicts and whatever else does not begin with them.
        scorer: one of `SCORERS`.
        batch_size: images at a time; not of `batches`.
        workers: processes that read them; not of `batches`.
        device: `auto`, `cpu` or `cuda`.
        amp: bfloat16 autocast.
        progress: told how many images are done.
        options: fields of `recipe.Source` and `recipe.Data` by name, with their meaning and default there:
            `ckpt`, `pretrained`, `ema`, `img_size`, `model_args`; `split`, `data_dir`, `samples`, `seed`, `labels`,
            `class_map`, `class_order`, `preprocess`. Or `model` is a whole Source, `data` a whole Data.

    Raises:
        InputError: the model, the data or an option cannot be used; the message says what to change.
    """
    check_scorer(scorer)
    reading = Reading(batch_size=batch_size, workers=workers, progress=progress)
    reads_logits = loss is None and scorer in GRADIENT_SCORERS
    own = Own(batches=batches, loss=loss, inputs=inputs, reads_logits=reads_logits)
    source, images = read_options(None if isinstance(model, nn.Module) else model, data, options)
    own.check(images)
    if loss is not None and scorer not in GRADIENT_SCORERS:
        raise InputError(f"scorer {scorer!r} looks at no loss; leave loss= out, or take one of {GRADIENT_SCORERS}")
    target = pick_device(device)
    if isinstance(model, nn.Module):
        net = adopted(model)
    else:
        net = adopted(open_network(source))
        if batches is None:
            images = with_shipped_images(images, source)
    stream = calibration(net, images, reading, scorer, own)
    opened = source.model_dump(mode="json", include=set(SOURCE_OPTIONS))
    asked = {"split": images.split, "data_dir": images.data_dir, "preprocess": images.preprocess or {}}
    asked |= {key: value for key in ("class_map", "class_order") if (value := getattr(images, key)) is not None}
    with evaluation_mode(net, device=target):
        found = examine(
            net,
            stream,
            scorer=scorer,
            seed=images.seed,
            loss=loss,
            amp=amp,
            source=opened,
            asked={} if own.batches is not None else asked,
        ).analysis
    return dataclasses.replace(found, taken=plain_taken_of(net, stream) | _axes(net, found))


def _axes(net: nn.Module, found: Analysis) -> dict[str, dict[str, Any]]:
    """What can be scored of such a network."""
    axes = list(dict.fromkeys(site_place(name)[0] for name in found.widths))
    supported = family_of(find_host(net).inner).SUPPORTS
    return plain_taken({"axes": Fact(axes, f"what is supported of {supported}, docs/support.md")})


def calibration(net: nn.Module, data: Data, reading: Reading, scorer: str, own: Own) -> Calibration | None:
    """The images that a network is scored on; None where the scorer looks at weights only.

    Raises:
        InputError: there are none, or none are needed.
    """
    if scorer not in WEIGHT_SCORERS:
        return open_calibration(net, own, data, reading, scorer)
    if own.batches is not None:
        raise InputError(f"scorer {scorer!r} looks at no images; leave batches= out, or take another scorer")
    return None
