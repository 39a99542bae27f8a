"""A library call leaves to its caller what belongs to the whole process."""

import random

import numpy as np
import pytest
import torch
from support.applying import QUICK, half

from prune_realloc import analyze, apply, emit
from prune_realloc.results.evaluate import evaluate


def state():
    generators = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002
    return generators, torch.get_num_threads(), torch.get_default_dtype(), torch.is_grad_enabled()


@pytest.mark.slow
def test_generators_threads_and_types_are_as_they_were():
    torch.manual_seed(7)
    before = state()
    found = analyze(samples=16)
    assert state() == before
    emit(found, target={"macs": 5_000_000, "stem_strides": [2, 2]})
    assert state() == before
    apply(half(), **QUICK)
    assert state() == before
    evaluate(data="demo", split="test", samples=16)
    assert state() == before
