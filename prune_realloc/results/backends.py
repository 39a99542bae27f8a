"""Ways to run a network: eager, compiled, ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.results.export import export_onnx, onnx_session

Run = Callable[[Tensor], Any]
"""One pass over a batch; returns when the result is there."""


def _eager(net: Run, input_shape: tuple[int, int, int], threads: int, device: torch.device) -> Run:
    return net if device.type == "cpu" else partial(_synchronised, net)


def _compiled(net: nn.Module, input_shape: tuple[int, int, int], threads: int, device: torch.device) -> Run:
    # with frozen weights the compiler may lay them out once, and on a GPU replay the whole pass as one graph
    how: dict[str, Any] = {"options": {"freezing": True}} if device.type == "cpu" else {"mode": "reduce-overhead"}
    return _eager(torch.compile(net, dynamic=False, **how), input_shape, threads, device)


def _onnx(net: nn.Module, input_shape: tuple[int, int, int], threads: int, device: torch.device) -> Run:
    if device.type != "cpu":
        raise InputError(f"backend 'onnx' is measured on the CPU only, not on {device.type}; use --device cpu")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_onnx(net, file, input_shape=input_shape)
        session = onnx_session(file, threads)
    return lambda images: session.run(None, {"images": images.numpy()})


BACKENDS: dict[str, Callable[[nn.Module, tuple[int, int, int], int, torch.device], Run]] = {
    "eager": _eager,
    "compiled": _compiled,
    "onnx": _onnx,
}


def _synchronised(net: Run, images: Tensor) -> Tensor:
    out = net(images)
    torch.cuda.synchronize()
    return out


@contextmanager
def find_compiler(backend: str) -> Iterator[None]:
    """For the compiled backend: starts without earlier versions, and names the failure of a compiler."""
    if backend != "compiled":
        yield
        return
    from torch._dynamo.exc import TorchDynamoException  # imports half of torch

    torch.compiler.reset()  # one shape at a time stays below the limit of versions
    try:
        yield
    except TorchDynamoException as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"backend 'compiled' does not work here ({reason}); leave it out") from error
