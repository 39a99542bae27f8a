"""The rules of a recipe."""

import pytest
from support.recipes import HALF, one_message

from prune_realloc.recipe.reader import check_recipe, parse_recipe
from prune_realloc.recipe.rules import Rule


@pytest.mark.parametrize(
    ("blocks", "covered"),
    [
        ("7", {7}),
        ("4-6", {4, 5, 6}),
        ('"0,3-5"', {0, 3, 4, 5}),
        ('"0, 3"', {0, 3}),
        ("[0, 1]", {0, 1}),
        ("null", set(range(12))),
    ],
)
def test_blocks_of_a_rule(blocks, covered):
    recipe = parse_recipe(HALF + f"rules: {{qk: {{floor: 8, blocks: {blocks}}}}}")
    assert {block for block in range(12) if recipe.rules["qk"].covers(block)} == covered
    assert recipe.rules["qk"].covers(None) == (blocks == "null")


@pytest.mark.parametrize("blocks", ["5-3", "a", "-1", "[]", "1.5", "true", "[true]", '"1,,2"', "4:11", "{a: 1}", '""'])
def test_wrong_blocks(blocks):
    assert "must be a block number" in one_message(HALF + f"rules: {{qk: {{floor: 8, blocks: {blocks}}}}}")


def test_later_rules_override_field_by_field():
    recipe = parse_recipe(
        HALF + "rules: {ffn: [{keep: 0.5, round_to: 8}, {blocks: 1-2, width: 96}, {blocks: 2, floor: 16}, "
        "{blocks: 3, freeze: true}, {blocks: 3-4, keep: 0.25}]}"
    )
    assert recipe.rule("ffn", 0) == Rule(keep=0.5, round_to=8)
    assert recipe.rule("ffn", 1) == Rule(width=96, round_to=8)
    assert recipe.rule("ffn", 2) == Rule.model_construct(width=96, round_to=8, floor=16)
    assert recipe.rule("ffn", 3) == recipe.rule("ffn", 4) == Rule(keep=0.25, round_to=8)
    assert recipe.rule("qk", 0) == Rule()


def test_freeze_false_only_lifts_the_freeze():
    recipe = parse_recipe("rules: {v: [{keep: 0.5}, {blocks: 3, freeze: false}]}")
    assert recipe.rule("v", 3) == Rule(keep=0.5, freeze=False)


@pytest.mark.parametrize(
    ("rules", "field", "complaint"),
    [
        ("{qk: {keep: 0.5, width: 8}}", "qk.width", "excludes keep 0.5"),
        ("{qk: {freeze: true, keep: 0.5}}", "qk.freeze", "excludes keep and width"),
        ("{qk: {floor: 16, ceiling: 8}}", "qk.floor", "above ceiling 8"),
        ("{qk: {width: 12, round_to: 8}}", "qk.width", "take 8 or 16"),
        ("{qk: {width: 8, floor: 16}}", "qk.width", "outside floor and ceiling"),
        ("{qk: {width: 0}}", "qk.width", "at least 1"),
        ("{qk: {width: true}}", "qk.width", "whole number, got true"),
        ("{qk: {width: 8.5}}", "qk.width", "whole number, got 8.5"),
        ("{qk: {keep: 1.1}}", "qk.keep", "at most 1"),
        ('{qk: {freeze: "yes"}}', "qk.freeze", "true or false, got 'yes'"),
        ("{ffn: [{keep: 0.5}, {round_to: 0}]}", "ffn[1].round_to", "at least 1"),
        ("{ffn: [{floor: 64}, {blocks: 3, ceiling: 32}]}", "ffn", "floor 64 above ceiling 32 for block 3"),
        ("{ffn: [{blocks: 0-3, floor: 64}, {blocks: 3-9, ceiling: 32}]}", "ffn", "for block 3"),
        ("{embed: {keep: 0.5, blocks: 3}}", "embed.blocks", "belongs to no block"),
        ("{block: {width: 8}}", "block.width", "stays or goes"),
        ("{block: [{freeze: true}, {floor: 8}]}", "block[1].floor", "use freeze"),
        ("{qqk: {keep: 0.5}}", "qqk", "did you mean 'qk'"),
        ("{qk: 3}", "qk", "must be a mapping"),
    ],
)
def test_wrong_rules(rules, field, complaint):
    (problem,) = check_recipe(HALF + f"rules: {rules}")
    assert (problem.line, problem.field) == (2, f"rules.{field}")
    assert complaint in problem.message


def test_bounds_may_cross_where_no_block_has_both():
    text = HALF + "rules: {ffn: [{blocks: 0-2, floor: 64}, {blocks: 3-9, ceiling: 32}]}"
    assert check_recipe(text) == []


def test_bounds_of_axes_that_are_not_cut_are_fine():
    assert check_recipe(HALF + "axes: [ffn]\nrules: {qk: {floor: 8}, block: {freeze: true, blocks: 0}}") == []
