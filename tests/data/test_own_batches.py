"""Batches of the caller's own: whatever can be iterated, and what is wrong with it."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from prune_realloc.core.errors import InputError
from prune_realloc.data.own_batches import OwnBatches, labels_of


def images_of(count, size=8, seed=0):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def passes(own, times=2):
    return [torch.cat([batch.images for batch in own]) for _ in range(times)]


class Disguised:
    """Can be gone through once, and is no iterator itself."""

    def __init__(self):
        self.items = iter(IMAGES.split(4))

    def __iter__(self):
        return self.items


IMAGES = images_of(10)
LABELS = torch.arange(10) % 5
FORMS = {
    "tensors": lambda: list(IMAGES.split(4)),
    "tuples": lambda: list(zip(IMAGES.split(4), LABELS.split(4), strict=True)),
    "lists of a loader": lambda: DataLoader(TensorDataset(IMAGES, LABELS), batch_size=4),
    "dicts": lambda: [{"pixel_values": x} for x in IMAGES.split(4)],
    "an iterator": lambda: iter(IMAGES.split(4)),
    "a generator": lambda: (x for x in IMAGES.split(4)),
    "an iterator in disguise": Disguised,
    "doubles": lambda: list(IMAGES.double().split(4)),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_images_each_time(form):
    own = OwnBatches(FORMS[form](), inputs=(lambda batch: batch["pixel_values"]) if form == "dicts" else None)
    assert all(torch.equal(found, IMAGES) for found in passes(own))
    assert [batch.positions.tolist() for batch in own] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert len(own.checksums) == 10
    assert own.taken()["images"].value == 10
    once = ("an iterator", "a generator", "an iterator in disguise")
    assert ("kept in memory" in " ".join(own.notes())) == (form in once)


def test_the_same_images_have_the_same_checksum():
    facts = []
    for form in ("tensors", "a generator"):
        own = OwnBatches(FORMS[form]())
        passes(own, 1)
        facts.append(own.facts())
    assert facts[0] == facts[1]
    assert facts[0]["input_size"] == [3, 8, 8]


def test_samples_bound_the_images_and_batches_stay_whole():
    own = OwnBatches(FORMS["tensors"](), samples=9)
    assert len(passes(own, 1)[0]) == 8
    assert own.notes() == ["8 images were taken where 9 were asked for: whole batches are taken"]
    own = OwnBatches(FORMS["tensors"](), samples=8)
    assert len(passes(own, 1)[0]) == 8
    assert own.notes() == []
    own = OwnBatches(FORMS["tensors"](), samples=99)
    passes(own)
    assert own.notes() == ["10 images were taken where 99 were asked for: there are no more"]


def test_progress_knows_about_how_many_there_are():
    seen = []
    own = OwnBatches(FORMS["tensors"](), progress=lambda done, whole: seen.append((done, whole)))
    passes(own)
    assert seen[-3:] == [(4, 10), (8, 10), (10, 10)]
    assert (4, 12) in seen


def test_a_loader_of_a_stream_has_no_length():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(IMAGES)

    own = OwnBatches(DataLoader(Stream(), batch_size=4), progress=lambda done, whole: None)
    assert all(torch.equal(found, IMAGES) for found in passes(own))


def test_an_endless_iterator_is_read_as_far_as_samples_go():
    def endless():
        while True:
            yield IMAGES[:4]

    own = OwnBatches(endless(), samples=12)
    assert all(len(found) == 12 for found in passes(own))


def test_a_loader_that_shuffles_is_noted():
    draw = torch.Generator().manual_seed(0)
    own = OwnBatches(DataLoader(TensorDataset(IMAGES), batch_size=5, shuffle=True, generator=draw))
    passes(own)
    assert any("another order" in note for note in own.notes())


def test_what_counts_as_labels():
    images = IMAGES[:4]
    assert labels_of((images, torch.tensor([1, 2, 3, 4])), 4).tolist() == [1, 2, 3, 4]
    for other in (
        images,
        [images],
        (images, torch.rand(4)),
        (images, torch.zeros(4, 2).long()),
        {"a": 1},
        (images, ""),
    ):
        assert labels_of(other, 4) is None


class Exhausted:
    """Gives batches in two passes only, of which the first is for a look."""

    def __init__(self):
        self.left = [IMAGES[:5], IMAGES[:5]]

    def __iter__(self):
        yield from [self.left.pop()] if self.left else []


def once_only():
    own = OwnBatches(Exhausted())
    return passes(own)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: OwnBatches([]), "batches: there are none; give a loader or a list"),
        (lambda: OwnBatches(iter([])), "batches: there are none"),
        (once_only, "batches: there are none, after 5 images in an earlier pass"),
        (
            lambda: OwnBatches([{"pixel_values": IMAGES, "labels": LABELS}]),
            "a dict with pixel_values, labels; say where",
        ),
        (lambda: OwnBatches([{"pixel_values": IMAGES}]), r"inputs=lambda batch: batch\['pixel_values'\]"),
        (lambda: OwnBatches(IMAGES), "must be a loader or a list of batches, got a Tensor"),
        (lambda: OwnBatches({"pixel_values": IMAGES}), r"got a dict; give \[batch\]"),
        (lambda: OwnBatches(7), "got a int"),
        (lambda: OwnBatches([IMAGES[0]]), r"a float32 tensor of shape \(3, 8, 8\); they must be a tensor of floats"),
        (lambda: OwnBatches([(IMAGES * 255).to(torch.uint8)]), "a uint8 tensor"),
        (lambda: OwnBatches([[list(IMAGES), LABELS]]), "the images of batch 0 are a list"),
        (lambda: OwnBatches([IMAGES[:0]]), "batch 0 holds no image"),
        (
            lambda: passes(OwnBatches([IMAGES, images_of(2, 16)])),
            "batch 1 has images of shape .* give all in one shape",
        ),
        (lambda: OwnBatches([IMAGES], samples=4), "samples 4 are fewer than the 10 images of the first batch"),
    ],
)
def test_what_is_refused(make, complaint):
    with pytest.raises(InputError, match=complaint) as caught:
        make()
    assert "\n" not in str(caught.value)


def labelled(*labels):
    own = OwnBatches([(IMAGES[:2], torch.tensor(each)) for each in labels])
    own.classes = 5
    return [batch.labels.tolist() for batch in own]


def test_labels_are_those_of_the_classes():
    assert labelled([0, 4], [1, 1]) == [[0, 4], [1, 1]]
    with pytest.raises(InputError, match="has the label 5, the model 5 classes; give the labels it was trained on, or"):
        labelled([0, 5])
    with pytest.raises(InputError, match="batch 1 has no labels, those before it have"):
        labelled([0, 1], [0.0, 1.0])
