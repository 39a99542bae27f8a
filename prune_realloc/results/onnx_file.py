"""A network -> an ONNX file that says of itself what it wants to see."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from prune_realloc.core.errors import InputError, first_line
from prune_realloc.core.names import PREPROCESSING
from prune_realloc.data.preprocessing import Preprocessing
from prune_realloc.results.parity import ExportError
from prune_realloc.results.prepared import Prepared
from prune_realloc.runtime.in_products import InProducts
from prune_realloc.runtime.networks import count_classes

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram


def onnx_metadata(
    model: nn.Module, input_shape: tuple[int, int, int], prepare: Preprocessing | None, inside: bool
) -> dict[str, Any]:
    """What a file says of itself: plain values by name.

    Args:
        prepare: what the network wants to see; None: nothing is said of it.
        inside: the file prepares pictures itself.
    """
    config = getattr(model, "pretrained_cfg", None) or {}
    made_by = {"producer": "prune-realloc", "version": version("prune-realloc")}
    found: dict[str, Any] = {**made_by, "input_size": list(input_shape)}
    if config.get("architecture"):
        found["architecture"] = config["architecture"]
    if prepare is not None:
        found |= {name: getattr(prepare, name) for name in PREPROCESSING} | {"preprocessing_inside": inside}
    names = list(config.get("label_names") or ())
    if names and len(names) == count_classes(model):
        found["class_names"] = names
    if getattr(model, "num_classes", None) == 1:
        second = "class_names[1]" if "class_names" in found else "the second class"
        found["logits"] = f"one: sigmoid is the probability of {second}"
    return found


def need_packages() -> None:
    """Raises InputError where a package is missing."""
    for name in ("onnx", "onnxruntime", "onnxscript"):
        if find_spec(name) is None:
            raise InputError(
                f"ONNX needs the package {name}, which is not installed: pip install 'prune-realloc[onnx]'"
            )


class Written(NamedTuple):
    """What a file was written with."""

    opset: int
    in_products: bool
    """Attention as products, since PyTorch could not write its fused one."""


def write_onnx(
    model: nn.Module,
    path: Path,
    input_shape: tuple[int, int, int],
    *,
    batch: int | None,
    opset: int | None,
    metadata: Mapping[str, Any],
) -> Written:
    """Write the file for one batch size, or for any where `batch` is None.

    Args:
        model: takes images of `input_shape`, or, if it is `Prepared`, pictures of any size.
        metadata: plain values by name; each is written as JSON.

    Raises:
        InputError: PyTorch cannot write that operator set.
        ExportError: PyTorch cannot export the network.
    """
    program, in_products = _program(model, input_shape, batch, opset)
    found = int(program.model.opset_imports[""])
    if opset is not None and found != opset:
        raise InputError(f"opset {opset} is not possible for this model, PyTorch wrote {found}; leave --opset out")
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces: paths of this machine, a quarter of a small file
    program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
    program.save(path, external_data=False)
    return Written(found, in_products)


def _program(
    model: nn.Module, input_shape: tuple[int, int, int], batch: int | None, opset: int | None
) -> tuple[ONNXProgram, bool]:
    """The network, and whether its attention had to be written as products."""
    try:
        return _translated(model, input_shape, batch, opset), False
    except ExportError:
        with suppress(ExportError), InProducts():  # where it fails again, it was not for its attention
            return _translated(model, input_shape, batch, opset), True
        raise


def _translated(
    model: nn.Module, input_shape: tuple[int, int, int], batch: int | None, opset: int | None
) -> ONNXProgram:
    count = 2 if batch is None else batch  # 1 would count as fixed
    free = {0: torch.export.Dim("batch")} if batch is None else {}
    if isinstance(model, Prepared):
        images = torch.zeros(count, 40, 56, input_shape[0], dtype=torch.uint8)
        free |= {1: torch.export.Dim("height"), 2: torch.export.Dim("width")}
    else:
        images = torch.zeros(count, *input_shape)
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
                dynamic_shapes=(free,) if free else None,
            )
    except Exception as error:  # the exporter's own kinds differ by version
        raise ExportError(f"PyTorch cannot export the model to ONNX: {first_line(error.__cause__ or error)}") from error
    assert program is not None  # as it always is with dynamo
    return program


@contextmanager
def _silent() -> Iterator[None]:
    """The exporter logs tracebacks of attempts that fail and are replaced; what counts is checked on the result."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
