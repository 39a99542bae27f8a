"""Several processes that share one job: who is who, and sums over all of them. Alone, nothing is summed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor

Item = TypeVar("Item")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Inside the block the processes that `accelerate launch` or `torchrun` has started are joined."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    state = PartialState(cpu=device.type == "cpu")
    try:
        yield
        state.wait_for_everyone()
    finally:
        state.destroy_process_group()


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
