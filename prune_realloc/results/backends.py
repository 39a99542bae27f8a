"""Ways to run a network: eager, compiled, ONNX Runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.results.export import export_onnx
from prune_realloc.results.parity import onnx_session

Run = Callable[[Tensor], object]
"""One pass over a batch; a GPU may still be at work when it returns."""
Backend = Callable[[nn.Module, tuple[int, int, int], int, torch.device], Run]
"""Network, (C, H, W) of one image, threads, device -> how the network runs there."""


def _eager(net: nn.Module, input_shape: tuple[int, int, int], threads: int, device: torch.device) -> Run:
    return net


def _compiled(net: nn.Module, input_shape: tuple[int, int, int], threads: int, device: torch.device) -> Run:
    if device.type != "cpu":  # a GPU replays the whole pass as one graph
        replayed: Run = torch.compile(net, dynamic=False, mode="reduce-overhead")
        return replayed
    import torch._inductor.config as inductor  # imports half of torch

    # around every pass, for any may compile: as an option of torch.compile it comes too late, when the weights are
    # inputs of the graph already
    compiled, frozen = torch.compile(net, dynamic=False), inductor.patch(freezing=True)

    def run(images: Tensor) -> object:
        """Weights are constants, which the compiler lays out once as its kernels want them: they must stay."""
        with frozen, torch.no_grad():
            return compiled(images)

    return run


def _onnx(net: nn.Module, input_shape: tuple[int, int, int], threads: int, device: torch.device) -> Run:
    if device.type != "cpu":
        raise InputError(f"backend 'onnxruntime' is measured on the CPU only, not on {device.type}; use --device cpu")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        export_onnx(net, file, input_shape=input_shape)
        session = onnx_session(file, threads)
    return lambda images: session.run(None, {"images": images.numpy()})


BACKENDS: dict[str, Backend] = {"eager": _eager, "compiled": _compiled, "onnxruntime": _onnx}


@contextmanager
def compiler_failure_named(backend: str) -> Iterator[None]:
    """For the compiled backend: starts without earlier versions, and turns a compiler's failure into an InputError."""
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
