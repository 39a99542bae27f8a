"""Whether an ONNX file computes what its network computes in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from prune_realloc.core.errors import NotFinite, WorkFailed
from prune_realloc.data.batches import ImageSource, describe_place, iterate
from prune_realloc.data.preprocessing import CHANNEL_MODE, Preprocessing
from prune_realloc.results.prepared import Prepared
from prune_realloc.runtime.networks import class_logits

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

TOLERANCE = 1e-4
"""Largest difference between PyTorch and ONNX Runtime, as a share of the largest absolute output."""
_LEVELS = 1.0
"""Largest difference between pixels prepared inside a file and by timm, in steps of 1/255; with Pillow 13 it is 0."""
_PICTURES = ((1.0, 1.0), (2.7, 1.9), (1.1, 3.3), (0.6, 0.45), (3.4, 1.1))
"""Heights and widths of the pictures that are compared, in units of the network's input size."""


class ExportError(WorkFailed):
    """The network could not be exported, or the export computes something else: the work failed, not the input."""


@dataclass(frozen=True)
class Parity:
    """How far a file is from its network."""

    outputs: float
    """Largest absolute difference of the outputs over the largest absolute output."""
    levels: float | None = None
    """Largest difference of the prepared pixels from timm's, in steps of 1/255; None: nothing is prepared inside."""


def onnx_session(path: Path, threads: int | None = None) -> InferenceSession:
    """An ONNX Runtime session on the CPU; with `threads`, so many work on one operator."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # threads that wait for the next pass would take the processor from what is timed in turns with this session
    options.add_session_config_entry("session.force_spinning_stop", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def parity(
    model: nn.Module, path: Path, input_shape: tuple[int, int, int], *, batch_sizes: tuple[int, ...], seed: int = 0
) -> Parity:
    """Compare `model` and the ONNX file on random images.

    Raises:
        ExportError: the difference is above `TOLERANCE`.
        NotFinite: the network's own outputs are not finite.
    """
    session = onnx_session(path)
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for batch_size in batch_sizes:
        images = torch.randn(batch_size, *input_shape, generator=generator)
        with torch.inference_mode():
            expected = model(images)
        worst = max(worst, _difference(_run(session, images), expected))
    return Parity(worst)


def parity_on_pictures(
    model: Prepared, path: Path, prepare: Preprocessing, *, batch_sizes: tuple[int, ...], seed: int = 0
) -> Parity:
    """Compare the file with what the network computes on the same pictures, drawn here in several sizes.

    The file's outputs with PyTorch's of the same prepared pixels, those pixels with the ones that every other verb
    sees, and the class that the file names with the network's own.

    Raises:
        NotFinite: the network's own outputs are not finite.
        ExportError: outputs differ by more than `TOLERANCE`, pixels by more than `_LEVELS`, or a class does.
    """
    session = onnx_session(path)
    outputs = levels = 0.0
    for pictures in _drawn(prepare, batch_sizes, seed):
        with torch.inference_mode():
            ours, timms = model.prepare(torch.from_numpy(pictures)), _as_elsewhere(pictures, prepare)
            expected = model.net(ours)
            usual = expected if torch.equal(ours, timms) else model.net(timms)
        levels = max(levels, float(((ours - timms).abs() * model.std * 255).max()))
        found = _run(session, torch.from_numpy(pictures))
        outputs = max(outputs, _difference(found, expected))
        _require_same_class(found, usual, pictures.shape)
    if levels > _LEVELS + 0.01:
        raise ExportError(
            f"pixels prepared inside the file differ from timm's by {levels:.1f} of 255; nothing was written"
        )
    return Parity(outputs, round(levels, 2))


def _run(session: InferenceSession, images: Tensor) -> Tensor:
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def _difference(found: Tensor, expected: Tensor) -> float:
    """The share of the largest output by which one batch of outputs differs."""
    if found.shape != expected.shape:
        raise ExportError(f"ONNX Runtime returns the shape {tuple(found.shape)}, PyTorch {tuple(expected.shape)}")
    if not torch.isfinite(expected).all():
        raise NotFinite("the model's outputs are not finite: its activations overflow on the images of the check")
    relative = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not relative <= TOLERANCE:  # also where it is NaN
        raise ExportError(
            f"ONNX Runtime and PyTorch differ by {relative:.1e} of the largest output at batch {len(expected)}, "
            f"more than {TOLERANCE:.0e}; nothing was written, try another --opset"
        )
    return relative


def _require_same_class(found: Tensor, usual: Tensor, shape: tuple[int, ...]) -> None:
    """The largest output of the file is that of the network too, or one that is equal to it up to `TOLERANCE`."""
    ours, theirs = class_logits(found), class_logits(usual)
    lead = theirs.max(1).values - theirs.gather(1, ours.argmax(1, keepdim=True)).squeeze(1)
    if not float(lead.max()) <= 2 * TOLERANCE * float(theirs.abs().max()):
        raise ExportError(
            f"the file and the network name different classes for a picture of {shape[1]}x{shape[2]} pixels; "
            "nothing was written, leave --with-preprocessing out"
        )


def _drawn(prepare: Preprocessing, batch_sizes: Sequence[int], seed: int) -> Iterator[np.ndarray]:
    """Coloured blocks under noise, uint8 of shape (B, H, W, C), in the sizes of `_PICTURES`; B takes turns."""
    channels, *size = prepare.input_size
    rng = np.random.default_rng(seed)
    for count, factors in zip(cycle(batch_sizes), _PICTURES, strict=False):
        height, width = (max(2, round(side * factor)) for side, factor in zip(size, factors, strict=True))
        blocks = rng.uniform(0, 255, (count, height // 8 + 1, width // 8 + 1, channels))
        blocks = blocks.repeat(8, axis=1).repeat(8, axis=2)[:, :height, :width]
        yield (blocks + rng.normal(0, 20, blocks.shape)).clip(0, 255).astype(np.uint8)


def _as_elsewhere(pictures: np.ndarray, prepare: Preprocessing) -> Tensor:
    """The pictures as `analyze` and `eval` prepare them."""
    source = ImageSource(
        name="drawn",
        count=len(pictures),
        load=partial(_load, pictures, CHANNEL_MODE[prepare.input_size[0]]),
        describe=partial(describe_place, "drawn"),
        num_classes=None,
    )
    (batch,) = iterate(source, prepare, samples=len(pictures), batch_size=len(pictures), seed=0)
    return batch.images[batch.labels.argsort()]


def _load(pictures: np.ndarray, mode: str, place: int) -> tuple[Image.Image, int]:
    picture = pictures[place]
    return Image.fromarray(picture[..., 0] if mode == "L" else picture), place
