"""What belongs to the whole process is the caller's, before and after."""

import os
import random

import numpy as np
import pytest
import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from prune_realloc.runtime.global_state import drawn_from, own_accelerate_state, random_state_kept


def draws():
    return random.random(), float(np.random.rand()), float(torch.rand(1))  # noqa: NPY002


def seeded_draws():
    random.seed(5)
    np.random.seed(5)  # noqa: NPY002
    torch.manual_seed(5)
    return draws()


@pytest.fixture
def no_accelerate_state():
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.mark.parametrize("block", [random_state_kept, lambda: drawn_from(1, 2)], ids=["kept", "drawn"])
def test_generators_go_on_as_if_nothing_had_been_drawn(block):
    first = seeded_draws()
    second = draws()
    assert seeded_draws() == first
    with block():
        draws()
    assert draws() == second
    seeded_draws()
    with pytest.raises(KeyError):
        _fail_in(block)
    assert draws() == second


def _fail_in(block):
    with block():
        torch.manual_seed(1)
        raise KeyError


def test_draws_are_a_function_of_numbers():
    found = []
    for numbers in ((1, 2), (1, 2), (2, 1)):
        with drawn_from(*numbers):
            found.append(draws())
    assert found[0] == found[1] != found[2]


def test_each_block_has_its_own_precision_and_the_caller_keeps_theirs(no_accelerate_state):
    theirs = Accelerator(mixed_precision="bf16", cpu=True, gradient_accumulation_steps=3)
    kinds = (AcceleratorState, PartialState, GradientState)
    before = [dict(kind._shared_state) for kind in kinds]
    for precision in ("no", "bf16"):
        with own_accelerate_state():
            assert Accelerator(cpu=True, mixed_precision=precision).mixed_precision == precision
    with pytest.raises(KeyError), own_accelerate_state():
        raise KeyError
    assert [dict(kind._shared_state) for kind in kinds] == before
    assert (theirs.mixed_precision, theirs.gradient_accumulation_steps) == ("bf16", 3)
    with theirs.autocast():
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.bfloat16


def test_where_nobody_had_an_accelerator_nobody_has_one_afterwards(no_accelerate_state):
    AcceleratorState._reset_state(reset_partial_state=True)
    with own_accelerate_state():
        Accelerator(cpu=True)
    assert (AcceleratorState._shared_state, PartialState._shared_state) == ({}, {})


def test_threads_and_environment_are_put_back():
    threads, environment = torch.get_num_threads(), dict(os.environ)
    with own_accelerate_state():
        torch.set_num_threads(threads + 1)
        os.environ |= {"MASTER_PORT": "29500", "PATH": "elsewhere"}
    assert (torch.get_num_threads(), dict(os.environ)) == (threads, environment)


@pytest.mark.parametrize("joined", [False, True], ids=["inside", "before"])
def test_a_group_of_processes_can_be_used_again(joined, no_accelerate_state):
    """Also where the caller's accelerate knows nothing of it."""
    AcceleratorState._reset_state(reset_partial_state=True)

    def join():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    if joined:
        join()
    try:
        for _ in range(2):
            with own_accelerate_state():
                if not dist.is_initialized():
                    join()
                assert PartialState(cpu=True).is_main_process
            assert dist.is_initialized()
            assert PartialState._shared_state == {}
    finally:
        dist.destroy_process_group()
