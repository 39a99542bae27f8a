import pytest
from support.networks import build
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.core.taken import Fact
from prune_realloc.data.preprocessing import foreign_crop_note, preprocessing, preprocessing_taken


def test_preprocessing_comes_from_the_model_and_can_be_overridden():
    model = build()
    own = preprocessing(model, (3, 32, 32), {})
    assert (own.mean, own.input_size) == ((0.5, 0.5, 0.5), (3, 32, 32))
    assert preprocessing(model, (3, 32, 32), {"mean": (0.1, 0.2, 0.3), "std": None}).mean == (0.1, 0.2, 0.3)
    assert preprocessing(model, (1, 32, 32), {}).mean == (0.5,)
    with pytest.raises(InputError, match="mean has 2 values"):
        preprocessing(model, (3, 32, 32), {"mean": (0.1, 0.2)})
    with pytest.raises(InputError, match="4 channels"):
        preprocessing(model, (4, 32, 32), {})


def test_a_network_that_states_nothing_gets_timms_defaults_as_a_guess():
    net = nn.Conv2d(3, 4, 1)
    prepare = preprocessing(net, (3, 32, 32), {"std": (0.5, 0.5, 0.5)})
    assert (prepare.mean, prepare.std) == ((0.485, 0.456, 0.406), (0.5, 0.5, 0.5))
    taken = preprocessing_taken(net, prepare, {"std": (0.5, 0.5, 0.5)})
    assert (taken["mean"].guessed, taken["std"].origin, taken["std"].guessed) == (True, "--std", False)


def test_a_crop_that_is_of_larger_images_is_said_in_one_line():
    crop = {"crop": Fact(0.9, "timm's deit_tiny_patch16_224")}
    [note] = foreign_crop_note(crop, (1, 28, 28))
    assert note.startswith("crop 0.9 is of timm's deit_tiny_patch16_224")
    assert "224 x 224 and 28 x 28: state yours with --crop-pct" in note
    assert foreign_crop_note(crop, (3, 224, 224)) == []
    assert foreign_crop_note({"crop": Fact(0.9, "--crop-pct")}, (1, 28, 28)) == []
