import mmap

import pytest

from prune_realloc.results import page_faults
from prune_realloc.results.page_faults import KEEP, faults_note


@pytest.mark.parametrize(("faults", "said"), [(0, False), (5_000, False), (7_000, True)])
def test_they_are_said_where_they_take_more_than_a_few_per_cent(faults, said, monkeypatch):
    """Two networks of 100 ms each: 3 % are 6,000 faults of a microsecond."""
    counts = iter([1_000, 1_000 + faults])
    monkeypatch.setattr(page_faults, "page_faults", lambda: next(counts))
    calls = dict.fromkeys(("one", "other"), lambda: None)
    notes = faults_note(calls, {name: [0.1, 0.1, 0.3] for name in calls})
    assert len(notes) == said
    for note in notes:
        assert "3,500 page faults each" in note
        assert all(name in note for name in KEEP)


def test_faults_are_counted():
    before = page_faults.page_faults()
    with mmap.mmap(-1, 4 << 20) as fresh:  # memory that no allocator of this process has had
        for place in range(0, len(fresh), mmap.PAGESIZE):
            fresh[place] = 1
    assert page_faults.page_faults() > before
