"""What was said of the labels stays with the analysis, the recipe, and the part that the outcome is measured on."""

import pytest
from support.right import pictures, right_network, write_pictures

from prune_realloc import analyze
from prune_realloc.core.errors import InputError
from prune_realloc.data.unseen import open_unseen
from prune_realloc.recipe.reader import build_recipe
from prune_realloc.results.opening import Reading, open_stream

NAMES = ("10", "9", "Zebra", "ant")


def test_an_analysis_keeps_the_order_of_the_classes(tmp_path):
    pics = pictures(4)
    net = right_network(pics, 4)
    for part in ("train", "val"):
        write_pictures(tmp_path / "d" / part, pics, NAMES)
    with pytest.raises(InputError, match="order of the classes"):
        analyze(net, data=str(tmp_path / "d"), device="cpu")
    found = analyze(net, data=str(tmp_path / "d"), class_order="torchvision", device="cpu")
    recipe = build_recipe(found.as_recipe() | {"budget": {"keep_macs": 0.5}})
    assert recipe.data.class_order == "torchvision"
    stream = open_stream(net, recipe.data, Reading(batch_size=4), 8)
    unseen = open_unseen(net, stream, str(recipe.data.name), None, "val", 8)
    assert unseen.stream.images.class_names == stream.images.class_names == NAMES
