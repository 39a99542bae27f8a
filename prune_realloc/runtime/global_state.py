"""What belongs to the whole process, and so to the caller: random generators, and the state that accelerate shares.

A library call may need its own; these blocks give it that, and put back what the caller had, whatever happens inside.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState, PartialState


@contextmanager
def random_state_kept(device: torch.device | None = None) -> Iterator[None]:
    """Inside the block Python's, NumPy's and torch's generators may be seeded and drawn from.

    Those of the GPUs are put back too where `device` is one of them.
    """
    gpus = range(torch.cuda.device_count()) if device is not None and device.type == "cuda" else ()
    before = random.getstate(), np.random.get_state()  # noqa: NPY002, timm draws there
    with torch.random.fork_rng(gpus):
        try:
            yield
        finally:
            random.setstate(before[0])
            np.random.set_state(before[1])  # noqa: NPY002


@contextmanager
def drawn_from(*numbers: int, device: torch.device | None = None) -> Iterator[None]:
    """Inside the block Python's, NumPy's and torch's generators are seeded by numbers; put back afterwards.

    Those of a GPU are seeded where the block computes on one, and are left as the block leaves them. Elsewhere they are
    not touched: torch remembers the stack of every such call for a GPU that is not in use, which costs more than
    augmenting a small image does.
    """
    seed = int(np.random.SeedSequence(numbers).generate_state(1)[0])
    with random_state_kept():
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002, timm draws there
        if device is None or device.type == "cpu":
            torch.default_generator.manual_seed(seed)
        else:
            torch.manual_seed(seed)
        yield


@contextmanager
def own_accelerate_state() -> Iterator[None]:
    """Inside the block accelerate begins anew, so that an Accelerator may have any device and precision.

    All Accelerators of a process share one state; the caller's work after the block as they did before it. A group of
    processes that the caller has joined is used; one that is joined inside stays joined, because torch cannot be relied
    on to join it once more. Joining sets the number of threads and names in the environment, which are put back.
    """
    shared = [kind._shared_state for kind in (AcceleratorState, PartialState, GradientState)]
    before = [dict(state) for state in shared]
    threads, environment = torch.get_num_threads(), dict(os.environ)
    AcceleratorState._reset_state(reset_partial_state=not dist.is_initialized())
    GradientState._reset_state()
    try:
        yield
    finally:
        for state, content in zip(shared, before, strict=True):
            state.clear()
            state.update(content)
        torch.set_num_threads(threads)
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
