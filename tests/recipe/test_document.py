"""A recipe as a whole."""

from typing import get_args

import pytest
from support.recipes import HALF, PLAN, SCHEMA, SHIPPED

from prune_realloc.recipe.document import COMPARABLE_SCORERS, RecipeAxis, Scorer
from prune_realloc.recipe.reader import check_recipe, load_recipe, parse_recipe
from prune_realloc.recipe.rules import Rule
from prune_realloc.recipe.writer import dump_recipe


def test_shipped_recipes_are_found():
    assert len(SHIPPED) >= 11


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_is_right_and_names_its_command_and_schema(path):
    command, schema = path.read_text().splitlines()[:2]
    recipe = load_recipe(path)
    if recipe.target is None:
        assert command.startswith(f"# prune-realloc apply {path.stem} --ckpt ")
        assert command.endswith(" -o pruned/")
    else:
        assert command == f"# prune-realloc emit runs/deit --recipe {path.stem} -o variants/"
    assert (path.parent / schema.removeprefix("# yaml-language-server: $schema=")).resolve() == SCHEMA
    assert parse_recipe(dump_recipe(recipe, "x")) == recipe


def test_paper_recipe_gives_the_papers_widths():
    recipe = load_recipe("paper_qk_small_v_wide_ffn_narrow")
    assert recipe.budget is None
    for block in range(12):
        assert 64 * recipe.rule("qk", block).keep == 16
        assert recipe.rule("v", block) == Rule(freeze=True)
        assert 1536 * recipe.rule("ffn", block).keep == (768 if block < 9 else 576)
        assert recipe.rule("ffn", block).round_to == 16


def test_scorers_are_those_of_the_scoring_room():
    from prune_realloc.pruning.scorers import SCORERS

    assert set(get_args(Scorer)) == set(SCORERS)


def test_axes_are_those_of_the_network_and_whole_blocks():
    from prune_realloc.core.structure import AXES

    assert set(get_args(RecipeAxis)) == {*AXES, "block"}


@pytest.mark.parametrize("text", ["budget: {params: 10M}", "rules: {qk: {width: 16}}", "axes: []\n" + PLAN])
def test_a_recipe_needs_one_thing_to_do(text):
    assert check_recipe(text) == []


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("scorer: taylor", "budget"),
        ("rules: {qk: {floor: 8}}", "budget"),
        (HALF + "axes: []", "axes"),
        (HALF + "axes: [qk, ffn, qk]", "axes"),
        ("format_version: 2\n" + HALF, "format_version"),
        (HALF + PLAN.replace("width: 16", "width: 65"), "plan.sites.blocks.0.qk.width"),
        ("budget: {keep_macs: 0.3}" + PLAN, "plan.requested"),  # the budget was edited after planning
        ("budget: {keep_params: 0.5}" + PLAN, "plan.kind"),
        (HALF + "source: {model_args: {depth: [.nan]}}", "source.model_args"),
        (HALF + "data: {preprocess: {means: [0.5]}}", "data.preprocess"),
        (HALF + "source:", "source"),
        (HALF + "1: 2", "[1]"),
    ],
)
def test_wrong_wholes(text, field):
    assert [p.field for p in check_recipe(text)] == [field]


def test_a_plan_of_this_budget_is_fine():
    assert check_recipe(HALF + PLAN) == []


@pytest.mark.parametrize(
    ("block", "ffn", "complaint"),
    [
        (1, 0, "plan.sites.blocks.0.ffn.width: is 0, but its block stays"),
        (0, 8, "plan.sites.blocks.0.ffn.width: is 8, but its block blocks.0 goes"),
        (0, 0, None),
        (1, 8, None),
    ],
)
def test_planned_widths_that_no_network_has(block, ffn, complaint):
    text = f"""
plan:
  kind: macs
  achieved: 5
  source: 9
  macs: 5
  params: 5
  sites:
    blocks.0: {{width: {block}, of: 1, reason: x}}
    blocks.0.ffn: {{width: {ffn}, of: 16, reason: x}}
"""
    problems = [str(problem) for problem in check_recipe(text)]
    assert [complaint in problem for problem in problems] == [True] if complaint else problems == []


@pytest.mark.parametrize("scorer", get_args(Scorer))
def test_the_allocation_fits_the_scorer_unless_it_is_given(scorer):
    allocation = "damage" if scorer in COMPARABLE_SCORERS else "per-axis"
    left_open = parse_recipe(HALF + f"scorer: {scorer}")
    assert left_open.allocation == allocation
    assert "allocation" not in left_open.model_fields_set
    assert f"\nallocation: {allocation}\n" in dump_recipe(left_open, "x")
    assert parse_recipe(dump_recipe(left_open, "x")) == left_open
    for given in ("damage", "uniform", "per-axis"):
        assert parse_recipe(HALF + f"scorer: {scorer}\nallocation: {given}").allocation == given


def test_scorers_in_nats_are_those_of_the_scoring_room():
    from prune_realloc.pruning.scorers import GRADIENT_SCORERS

    assert set(COMPARABLE_SCORERS) == set(GRADIENT_SCORERS)


@pytest.mark.parametrize(("size", "read"), [("64", 64), ("[64, 32]", (64, 32))])
def test_image_sizes_are_one_number_or_two(size, read):
    recipe = parse_recipe(HALF + f"source: {{img_size: {size}}}\ntarget: {{img_size: {size}}}")
    assert recipe.source.img_size == recipe.target.img_size == read
    assert parse_recipe(dump_recipe(recipe, "x")) == recipe


@pytest.mark.parametrize(
    ("size", "complaint"),
    [
        ("0", "source.img_size: must be at least 1, got 0"),
        ("a", "source.img_size: must be a whole number, got 'a'"),
        ("[64, 0]", "source.img_size[1]: must be at least 1, got 0"),
        ("[64]", "source.img_size[1]: is missing"),
        ("[64, 32, 3]", "source.img_size: must be at most 2 items long, got a list"),
    ],
)
def test_wrong_image_sizes(size, complaint):
    problems = check_recipe(HALF + f"source: {{img_size: {size}}}")
    assert [f"{problem.field}: {problem.message}" for problem in problems] == [complaint]
