"""What a planned recipe and an analysis tell of the images and the classes."""

import dataclasses

import pytest
from support.analyses import DEIT_S, make_analysis
from support.pruned import EVEN

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.errors import InputError
from prune_realloc.planning.evidence import read_evidence
from prune_realloc.planning.plan import plan
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.reader import build_recipe, parse_recipe
from prune_realloc.recipe.writer import dump_recipe


def analysis_of(input_size: list[int], num_classes: int = 10) -> Analysis:
    model = {"architecture": "toy", "input_size": input_size, "num_classes": num_classes}
    return make_analysis(**DEIT_S, model=model)


def planned(analysis: Analysis) -> Recipe:
    recipe = build_recipe(analysis.as_recipe() | {"budget": {"keep_macs": 0.5}})
    return recipe.model_copy(update={"plan": plan(analysis, recipe)})


@pytest.mark.parametrize("num_classes", [10, 0])
@pytest.mark.parametrize(
    ("input_size", "size"), [([3, 224, 224], 224), ([1, 64, 32], (64, 32))], ids=["square", "not square"]
)
def test_a_planned_recipe_tells_what_its_analysis_tells(tmp_path, input_size, size, num_classes):
    analysis = analysis_of(input_size, num_classes)
    recipe = planned(analysis)
    expected = {"architecture": "toy", "in_chans": input_size[0], "img_size": size, "num_classes": num_classes}
    (tmp_path / "half.yaml").write_text(dump_recipe(recipe, "x"))
    for source in (recipe, tmp_path / "half.yaml", analysis):
        assert read_evidence(source, None)[1] == expected


def test_a_planned_recipe_of_an_older_version_still_loads():
    recipe = planned(analysis_of([3, 224, 224]))
    text = dump_recipe(recipe, "x").replace("  input_size: [3, 224, 224]\n", "").replace("  num_classes: 10\n", "")
    older = parse_recipe(text)
    assert older.plan == recipe.plan
    assert read_evidence(older, None)[1] == {"architecture": "toy"}


def test_an_analysis_at_two_sizes_is_planned():
    analysis = analysis_of([3, 64, 32])
    analysis = dataclasses.replace(analysis, model=dict(analysis.model) | {"img_size": [64, 32]})
    recipe = planned(analysis)
    assert recipe.source.img_size == (64, 32)
    assert parse_recipe(dump_recipe(recipe, "x")) == recipe


@pytest.mark.parametrize(
    ("top1", "classes", "refused"),
    [
        (0.10, 10, True),
        (0.129, 10, True),  # 100 images: 10 % +- 3 %
        (0.131, 10, False),
        (0.5, 2, True),
        (None, 10, False),  # without labels nobody knows
        (0.0, 0, False),  # no classifier
    ],
)
def test_a_network_at_chance_shows_nothing(top1, classes, refused):
    analysis = dataclasses.replace(analysis_of([3, 224, 224], classes), top1=top1, samples=100)
    if not refused:
        assert read_evidence(analysis, None)[0].plan is not None
        return
    with pytest.raises(InputError, match=r"source: its top-1 of .* on 100 images is not above chance \(") as raised:
        read_evidence(analysis, None)
    assert "\n" not in str(raised.value)


def test_a_source_that_kept_the_same_of_everything_shows_nothing():
    plan_of = planned(analysis_of([3, 224, 224])).plan
    even = build_recipe({"plan": plan_of.model_copy(update={"sites": EVEN}).model_dump()})
    with pytest.raises(InputError, match=r"source: pruning kept 50.0% of every site, so nothing was measured"):
        read_evidence(even, None)
    shown = EVEN | {"blocks.3.qk": EVEN["blocks.3.qk"].model_copy(update={"width": 8})}
    uneven = build_recipe({"plan": plan_of.model_copy(update={"sites": shown}).model_dump()})
    assert read_evidence(uneven, None)[0] == uneven


def test_a_uniform_plan_shows_nothing_even_where_it_was_rounded():
    analysis = analysis_of([3, 224, 224])
    recipe = build_recipe(analysis.as_recipe() | {"budget": {"keep_macs": 0.6}, "allocation": "uniform"})
    recipe = recipe.model_copy(update={"plan": plan(analysis, recipe)})
    with pytest.raises(InputError, match="allocation: uniform keeps the same share of every site, so nothing was"):
        read_evidence(recipe, None)
