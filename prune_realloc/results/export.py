"""ONNX files that compute what the network computes, proven before the file gets its name."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from prune_realloc.core.errors import InputError, WorkFailed, first_line, require_at_least
from prune_realloc.core.files import make_folder, put_in_place
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.runtime.networks import evaluation_mode

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from torch.onnx import ONNXProgram

TOLERANCE = 1e-4
"""Largest difference between PyTorch and ONNX Runtime, as a share of the largest absolute output."""


class ExportError(WorkFailed):
    """The network could not be exported, or the export computes something else: the work failed, not the input."""


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
    """Shape of the input `images`: (B, C, H, W), B a number or `batch`. The output is `logits`."""
    difference: float | None
    """Largest absolute difference to PyTorch over the largest absolute output; None: not checked."""


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
) -> Exported:
    """Write `model` as ONNX: input `images`, output `logits`, float32. An existing file is replaced.

    Args:
        path: the file; weights of more than 2 GB go to `<path>.data` beside it, else everything is in one file.
        input_shape: (C, H, W) of one image.
        batch: `dynamic`, or the one batch size that the file shall take.
        opset: ONNX operator set; None: what PyTorch recommends.
        check: compare with PyTorch on seeded random images, at batch 1 and 3 where it is dynamic.

    Raises:
        InputError: a package is missing, or an option or the path cannot be used.
        ExportError: PyTorch cannot export the network, or the outputs differ by more than `TOLERANCE`; nothing is
            written.
    """
    _need_packages()
    fixed = _fixed_batch(batch)
    path = Path(path)
    if path.is_dir():
        raise InputError(f"output {str(path)!r} is a folder; give a file name, such as model.onnx")
    make_folder(path.parent)
    with _scratch_folder(path) as folder, evaluation_mode(model, device=torch.device("cpu")):
        written, difference = folder / path.name, None
        found = _write(model, written, input_shape, fixed, opset)
        if check:
            difference = parity(model, written, input_shape, batch_sizes=(1, 3) if fixed is None else (fixed,))
        size = sum(file.stat().st_size for file in folder.iterdir())
        # weights beside the file come before the file
        put_in_place(path.parent, {file.name: file for file in sorted(folder.iterdir(), reverse=True)})
    shape = ("batch" if fixed is None else fixed, *input_shape)
    return Exported(path=str(path), size=size, opset=found, input_shape=shape, difference=difference)


def parity(
    model: nn.Module, path: Path, input_shape: tuple[int, int, int], *, batch_sizes: tuple[int, ...], seed: int = 0
) -> float:
    """Largest difference between `model` and the ONNX file on random images, as a share of the largest output.

    Raises:
        ExportError: the difference is above `TOLERANCE`.
    """
    session = onnx_session(path)
    generator = torch.Generator().manual_seed(seed)
    worst = 0.0
    for batch_size in batch_sizes:
        images = torch.randn(batch_size, *input_shape, generator=generator)
        with torch.inference_mode():
            expected = model(images)
        found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
        worst = max(worst, _difference(found, expected))
    return worst


def _difference(found: Tensor, expected: Tensor) -> float:
    """What `parity` finds on one batch of outputs."""
    if found.shape != expected.shape:
        raise ExportError(f"ONNX Runtime returns the shape {tuple(found.shape)}, PyTorch {tuple(expected.shape)}")
    relative = float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))
    if not relative <= TOLERANCE:  # also where it is NaN
        raise ExportError(
            f"ONNX Runtime and PyTorch differ by {relative:.1e} of the largest output at batch {len(expected)}, "
            f"more than {TOLERANCE:.0e}; nothing was written, try another --opset"
        )
    return relative


def onnx_session(path: Path, threads: int | None = None) -> InferenceSession:
    """An ONNX Runtime session on the CPU; with `threads`, so many work on one operator."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _fixed_batch(batch: int | str) -> int | None:
    """The one batch size that the file shall take; None where it is dynamic."""
    if isinstance(batch, int):
        require_at_least("batch", batch, 1)
        return batch
    if batch != "dynamic":
        raise InputError(f"batch {batch!r} is neither 'dynamic' nor a number")
    return None


def _write(
    model: nn.Module, path: Path, input_shape: tuple[int, int, int], batch: int | None, opset: int | None
) -> int:
    """Write the file for one batch size, or for any where `batch` is None; returns its operator set."""
    program = _program(model, input_shape, batch, opset)
    found = int(program.model.opset_imports[""])
    if opset is not None and found != opset:
        raise InputError(f"opset {opset} is not possible for this model, PyTorch wrote {found}; leave --opset out")
    for node in program.model.graph:
        node.metadata_props.clear()  # stack traces: paths of this machine, a quarter of a small file
    program.save(path, external_data=False)
    return found


def _program(model: nn.Module, input_shape: tuple[int, int, int], batch: int | None, opset: int | None) -> ONNXProgram:
    images = torch.zeros(2 if batch is None else batch, *input_shape)  # 1 would count as fixed
    try:
        with _silent():
            program = torch.onnx.export(
                model,
                (images,),
                dynamo=True,
                opset_version=opset,
                verbose=False,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("batch")},) if batch is None else None,
            )
    except Exception as error:  # the exporter's own kinds differ by version
        raise ExportError(f"PyTorch cannot export the model to ONNX: {first_line(error.__cause__ or error)}") from error
    assert program is not None  # as it always is with dynamo
    return program


def _need_packages() -> None:
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if find_spec(name) is None:
            raise InputError(
                f"ONNX needs the package {name}, which is not installed: pip install 'prune-realloc[onnx]'"
            )


@contextmanager
def _scratch_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path`, on the same disk, that is gone afterwards."""
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            yield Path(folder)
    except OSError as error:
        raise InputError(f"output {str(path)!r} cannot be written: {error.strerror or error}") from error


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter logs tracebacks of attempts that fail and are replaced; what counts is checked on the result."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
