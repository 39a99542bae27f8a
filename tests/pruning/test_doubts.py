"""What predictions give cause to doubt, and when it is said."""

from math import log

import pytest
import torch
from support.networks import build

from prune_realloc import analyze
from prune_realloc.data.batches import Batch
from prune_realloc.pruning.doubts import Predicted, doubts, said_early
from prune_realloc.pruning.objectives import LABELS


@pytest.mark.parametrize(
    ("loss", "right", "entropy", "classes", "said"),
    [
        (0.4, 0.9, 0.3, 10, None),
        (2.3, 0.13, 1.0, 10, "right on 13.0% of the images, near chance"),
        (0.4, 0.74, 0.3, 2, None),
        (2.3, 0.17, 2.3, 10, "close to uniform"),
        (
            log(10),
            0.5,
            1.0,
            10,
            "is 2.30 nats, and a guess among 10 classes costs 2.30: the images are of another domain",
        ),
        (2.2, None, 2.26, 10, "close to uniform"),
        (9.0, None, 0.1, 10, None),  # of labels that were drawn the loss says nothing
        (9.0, None, None, 0, None),
    ],
)
def test_doubts_by_hand(loss, right, entropy, classes, said):
    found = doubts(Predicted(images=100, loss=loss, right=right, entropy=entropy), classes)
    assert len(found) == (said is not None)
    assert all(said in line for line in found)


def batch(start, count):
    positions = torch.arange(start, start + count)
    return Batch(positions, torch.zeros(count, 1, 1, 1), torch.zeros(count, dtype=torch.long), tuple(range(count)))


def test_a_network_at_chance_is_said_after_its_first_images_and_once(caplog):
    objective = said_early(LABELS, 10)
    for start in (0, 200, 400):
        assert ("near chance" in caplog.text) == (start > 200)
        objective.judge(torch.eye(10)[torch.full((200,), 3)], batch(start, 200))
    [message] = caplog.messages
    assert message.startswith("note: of the first 400 images: the model is right on 0.0% of the images, near chance")


def test_a_good_network_is_not_doubted_and_its_losses_are_what_they_were(caplog):
    logits = 5 * torch.eye(10)[torch.zeros(300, dtype=torch.long)]
    found = said_early(LABELS, 10).judge(logits, batch(0, 300))
    assert torch.equal(found.each, LABELS.judge(logits, batch(0, 300)).each)
    assert not caplog.messages


def test_without_labels_it_is_said_what_cannot_be_told():
    notes = analyze(samples=8, labels=False).notes
    assert any("nothing tells whether the images are of the model's domain; of at most 2.30 nats" in n for n in notes)
    headless = build(num_classes=0)
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    notes = analyze(headless, batches=[images]).notes
    assert any("nothing tells whether the images are of its domain" in note for note in notes)
