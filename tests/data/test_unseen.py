"""Images that nothing was fitted on, and how far one is with them."""

import pytest
from support.networks import build

from prune_realloc.data.unseen import open_unseen
from prune_realloc.recipe.document import Data
from prune_realloc.results.opening import Reading, open_stream


@pytest.mark.parametrize(("split", "count"), [("validation", 40), ("train", 40), ("train", 10**6)])
def test_what_is_told_of_them_ends_at_their_number(split, count):
    told: list[tuple[int, int]] = []
    reading = Reading(batch_size=32, progress=lambda done, total: told.append((done, total)))
    fitted = open_stream(build(in_chans=1, num_classes=10, img_size=28, patch_size=14), Data(name="demo"), reading, 48)
    list(fitted)
    assert told[-1] == (48, 48)
    unseen = open_unseen(build(in_chans=1, num_classes=10), fitted, "demo", None, split, count)
    found = sum(len(batch.images) for batch in unseen)
    assert told[-1] == (found, found)
    assert all(done <= total for done, total in told)
