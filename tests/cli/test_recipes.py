"""The verb `recipes`, and the shell's completion."""

import json

import pytest

from prune_realloc.recipe.reader import load_recipe
from prune_realloc.recipe.shipped import SHIPPED


def test_every_recipe_is_listed_with_its_comment_and_its_command(run_cli):
    code, out, err = run_cli("recipes")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[::3] == [*SHIPPED]
    assert all(line.strip().startswith("prune-realloc ") for line in lines[2::3])
    code, printed, _ = run_cli("recipes", "--json")
    assert [load_recipe(each["file"]) for each in json.loads(printed).values()] == [*map(load_recipe, SHIPPED)]


def test_a_shipped_recipe_is_valid_by_name(run_cli):
    assert run_cli("validate", "deit_small_half") == (0, "deit_small_half: ok\n", "")


@pytest.mark.parametrize(
    ("words", "completed"), [("rep", "report"), ("apply deit_s", "deit_small_half"), ("report --fo", "--format")]
)
def test_the_shell_completes_verbs_flags_and_recipes(run_cli, monkeypatch, words, completed):
    monkeypatch.setenv("_PRUNE_REALLOC_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"prune-realloc {words}")
    monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    code, out, _ = run_cli()
    assert (code, out.strip()) == (0, completed)
