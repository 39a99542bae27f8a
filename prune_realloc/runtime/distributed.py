"""Several processes that share one job: who is who, and sums over all of them. Alone, nothing is summed."""

from __future__ import annotations

import atexit
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

from prune_realloc.core.errors import InputError, WorkFailed, first_line
from prune_realloc.runtime.global_state import own_accelerate_state

Item = TypeVar("Item")


_LAUNCHED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What a launcher sets besides WORLD_SIZE."""
_REMEDY = "start them with `accelerate launch` or `torchrun`, or unset WORLD_SIZE to work alone"


@contextmanager
def process_group(device: torch.device) -> Iterator[bool]:
    """Inside the block the processes that `accelerate launch` or `torchrun` has started are joined.

    They wait for each other at its end, and stay joined until the process ends, so that another block finds them so:
    torch cannot be relied on to join them once more.

    Yields whether this process speaks and writes for all; the only one always does, whatever RANK says.

    Raises:
        InputError: the environment names other processes, but not how to reach them.
        WorkFailed: they cannot be reached.
    """
    if _launched_processes() == 1:
        with _no_launcher():
            yield True
        return
    joined = dist.is_initialized()
    with own_accelerate_state():
        try:
            state = PartialState(cpu=device.type == "cpu")
        except (RuntimeError, ValueError) as error:
            raise WorkFailed(f"the processes cannot be joined ({first_line(error)}); {_REMEDY}") from error
        if not joined:
            atexit.register(_part)
        yield place()[0] == 0
        state.wait_for_everyone()


def _part() -> None:
    """Leaves the group that `process_group` joined, unless the caller has done so."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def _no_launcher() -> Iterator[None]:
    """Hides what other libraries would take for a launcher's word, such as a stray LOCAL_RANK."""
    hidden = {name: os.environ.pop(name) for name in ("WORLD_SIZE", *_LAUNCHED) if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _launched_processes() -> int:
    """How many processes a launcher has started, this one among them."""
    count = _whole_number("WORLD_SIZE", "1", 1)
    if count > 1:
        if missing := [name for name in _LAUNCHED if not os.environ.get(name)]:
            raise InputError(f"WORLD_SIZE is {count}, but {', '.join(missing)} not set; {_REMEDY}")
        rank = _whole_number("RANK", "0", 0)
        if rank >= count:
            raise InputError(f"RANK is {rank}, but WORLD_SIZE {count} counts from 0 to {count - 1}; {_REMEDY}")
    return count


def _whole_number(name: str, default: str, least: int) -> int:
    text = os.environ.get(name) or default
    if not text.strip().isdecimal() or int(text) < least:
        raise InputError(f"{name} is {text!r}, it must be a whole number of at least {least}; {_REMEDY}")
    return int(text)


def place() -> tuple[int, int]:
    """(number of this process, number of all)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def summed(value: Tensor) -> Tensor:
    """The sum of all processes' values, in every process."""
    if not dist.is_initialized():
        return value
    where = "cuda" if dist.get_backend() == "nccl" else "cpu"  # the only memory that the backend reaches
    total = value.to(where, copy=True)
    dist.all_reduce(total)
    return total.to(value.device)


def broadcast_(tensors: Iterable[Tensor]) -> None:
    """The first process's values for all."""
    for tensor in tensors if dist.is_initialized() else ():
        dist.broadcast(tensor, 0)


def gathered(items: list[Item]) -> list[Item]:
    """The lists of all processes in turns: the first of each, then the second of each, ..."""
    if not dist.is_initialized():
        return items
    lists: list[list[Item]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(lists, items)
    return [own[i] for i in range(max(map(len, lists))) for own in lists if i < len(own)]
