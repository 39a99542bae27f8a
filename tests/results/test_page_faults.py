import torch

from prune_realloc.results.page_faults import KEEP, faults_note


def test_memory_that_every_pass_takes_anew_is_said():
    large = {"a": lambda: torch.ones(20_000_000)}  # more than the C library ever keeps
    [note] = faults_note(large, {"a": [0.1, 0.1, 0.2]})
    assert all(name in note for name in KEEP)
    assert "page faults each" in note


def test_a_share_that_is_small_is_not():
    assert faults_note({"a": lambda: None}, {"a": [0.1]}) == ()
    assert faults_note({"a": lambda: torch.ones(20_000_000)}, {"a": [1e3]}) == ()
