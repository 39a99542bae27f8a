"""Directions that the images never show."""

import pytest
import torch
from support.networks import build

from prune_realloc import analyze
from prune_realloc.pruning.shown import share_not_shown


def test_the_share_by_hand_whatever_the_scales_of_the_units():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 16, generator=generator, dtype=torch.float64)
    for scale in (torch.ones(16), torch.logspace(-6, 6, 16)):
        scaled = rows * scale.double()
        assert share_not_shown(scaled.T @ scaled) == pytest.approx(10 / 16)
    assert share_not_shown(torch.diag(torch.tensor([1.0, 2.0, 0.0, 3.0], dtype=torch.float64))) == pytest.approx(1 / 4)
    assert share_not_shown(torch.zeros(4, 4, dtype=torch.float64)) == 1.0


@pytest.mark.parametrize(("images", "shown"), [(3, 3 * 17 - 1), (24, 192)])
def test_the_widest_layer_is_named_where_images_are_fewer_than_its_directions(images, shown):
    """17 tokens of an image, and 192 directions; their mean is none of those that vary."""
    batches = [torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(0))]
    notes = [note for note in analyze(build(), batches=batches).notes if "show nothing of" in note]
    assert len(notes) == (shown < 192)
    for note in notes:
        assert note.startswith(f"3 images show nothing of {1 - shown / 192:.0%} of the 192 directions that blocks.")
        assert ".mlp.fc2 reads" in note
