"""ONNX files that compute what the network computes, proven before the file gets its name."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prune_realloc.core.errors import InputError, require_at_least
from prune_realloc.core.files import make_folder, put_in_place
from prune_realloc.data.preprocessing import CHANNEL_MODE, Preprocessing, preprocessing
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.results.onnx_file import need_packages, onnx_metadata, write_onnx
from prune_realloc.results.parity import Parity, parity, parity_on_pictures
from prune_realloc.results.prepared import Prepared
from prune_realloc.runtime.networks import evaluation_mode


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What `export_onnx` has written."""

    path: str
    """The file; what it names `<path>.data` lies beside it."""
    size: int
    """Bytes of the file, together with the weights where they lie beside it."""
    opset: int
    """ONNX operator set that PyTorch wrote."""
    input_shape: tuple[int | str, ...]
    """Shape of the input `images`: (B, C, H, W), B a number or `batch`; with preprocessing inside (B, H, W, C), H and W
    `height` and `width`. The output is `logits`."""
    difference: float | None
    """Largest absolute difference to PyTorch over the largest absolute output; None: not checked."""
    pixel_difference: float | None = None
    """Largest difference of the pixels prepared inside from timm's, in steps of 1/255; None: none are, or unchecked."""
    attention_in_products: bool = False
    """PyTorch could not write its fused attention; the file has its products, that of queries and keys and that with
    values."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """What the file says of itself, by name: mean, std, input_size, class_names, ..."""


def deployed(net: nn.Module) -> nn.Module:
    """The form in which a network is used: an EfficientViT without batch norms, any other as it is."""
    return net.fuse() if isinstance(net, EfficientVit) else net


def export_onnx(
    model: nn.Module,
    path: str | Path,
    *,
    input_shape: tuple[int, int, int],
    batch: int | str = "dynamic",
    opset: int | None = None,
    check: bool = True,
    prepare: Preprocessing | None = None,
    with_preprocessing: bool = False,
) -> Exported:
    """Write `model` as ONNX: input `images`, output `logits`, float32. An existing file is replaced.

    Args:
        path: the file; weights of more than 2 GB go to `<path>.data` beside it, else everything is in one file.
        input_shape: (C, H, W) of one image.
        batch: `dynamic`, or the one batch size that the file shall take.
        opset: ONNX operator set; None: what PyTorch recommends.
        check: compare with PyTorch on seeded random images (pictures of several sizes, where they are prepared inside),
            at batch 1 and 3 where it is dynamic.
        prepare: what the network wants to see, for the metadata; None: what its `pretrained_cfg` says, if anything.
        with_preprocessing: the input is uint8 (B, H, W, C), gray or RGB, of any height and width; resizing, cropping,
            mean and std happen inside, as `prepare` says.

    Raises:
        InputError: a package is missing, or an option or the path cannot be used.
        ExportError: PyTorch cannot export the network, or the outputs differ by more than `TOLERANCE`; nothing is
            written.
    """
    need_packages()
    fixed = _fixed_batch(batch)
    path = Path(path)
    if path.is_dir():
        raise InputError(f"output {str(path)!r} is a folder; give a file name, such as model.onnx")
    prepare = prepare or _own_preprocessing(model, input_shape)
    whole = _with_preprocessing(model, prepare) if with_preprocessing else model
    metadata = onnx_metadata(model, input_shape, prepare, with_preprocessing)
    make_folder(path.parent)
    with _scratch_folder(path) as folder, evaluation_mode(whole, device=torch.device("cpu")):
        written, found = folder / path.name, None
        made = write_onnx(whole, written, input_shape, batch=fixed, opset=opset, metadata=metadata)
        if check:
            found = _checked(whole, written, input_shape, prepare, (1, 3) if fixed is None else (fixed,))
        size = sum(file.stat().st_size for file in folder.iterdir())
        # weights beside the file come before the file
        put_in_place(path.parent, {file.name: file for file in sorted(folder.iterdir(), reverse=True)})
    one = ("height", "width", input_shape[0]) if with_preprocessing else input_shape
    return Exported(
        path=str(path),
        size=size,
        opset=made.opset,
        input_shape=("batch" if fixed is None else fixed, *one),
        difference=found.outputs if found else None,
        pixel_difference=found.levels if found else None,
        attention_in_products=made.in_products,
        metadata=metadata,
    )


def _own_preprocessing(model: nn.Module, input_shape: tuple[int, int, int]) -> Preprocessing | None:
    """What the network's own configuration says; None where it says nothing, or takes no images as they are read."""
    config = getattr(model, "pretrained_cfg", None) or {}
    if not config.get("mean") or input_shape[0] not in CHANNEL_MODE:
        return None
    return preprocessing(model, input_shape, {})


def _with_preprocessing(model: nn.Module, prepare: Preprocessing | None) -> Prepared:
    if prepare is None:
        raise InputError(
            f"with_preprocessing: {type(model).__name__} tells no mean and std, or takes no gray or RGB images "
            "(1 or 3 channels); give prepare, or leave it out"
        )
    return Prepared(model, prepare)


def _checked(
    model: nn.Module,
    written: Path,
    input_shape: tuple[int, int, int],
    prepare: Preprocessing | None,
    batch_sizes: tuple[int, ...],
) -> Parity:
    if isinstance(model, Prepared):
        assert prepare is not None
        return parity_on_pictures(model, written, prepare, batch_sizes=batch_sizes)
    return parity(model, written, input_shape, batch_sizes=batch_sizes)


def _fixed_batch(batch: int | str) -> int | None:
    """The one batch size that the file shall take; None where it is dynamic."""
    if isinstance(batch, int):
        require_at_least("batch", batch, 1)
        return batch
    if batch != "dynamic":
        raise InputError(f"batch {batch!r} is neither 'dynamic' nor a number")
    return None


@contextmanager
def _scratch_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, on the same disk, that is gone afterwards."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder)
    except OSError as error:
        raise InputError(f"output {str(path)!r} cannot be written: {error.strerror or error}") from error
