"""Recipes called by name."""

import pytest
from support.recipes import SHIPPED as FILES

from prune_realloc.core.errors import InputError
from prune_realloc.recipe.reader import load_recipe
from prune_realloc.recipe.shipped import SHIPPED, command, comment, is_recipe


def test_every_file_has_its_name_and_says_what_it_is_for():
    assert sorted(SHIPPED.values()) == FILES
    for name in SHIPPED:
        assert comment(name).endswith("."), name
        assert name in command(name)


def test_a_name_is_its_file_unless_one_of_that_name_is_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe("deit_small_half") == load_recipe(SHIPPED["deit_small_half"])
    (tmp_path / "deit_small_half").write_text("budget: {keep_macs: 0.25}\n")
    assert load_recipe("deit_small_half").budget.keep_macs == 0.25


def test_what_is_meant_as_a_recipe(tmp_path):
    assert is_recipe("deit_small_half")
    assert is_recipe("half.yaml")
    assert not is_recipe(tmp_path)


def test_an_unknown_name_says_where_names_are_listed():
    with pytest.raises(InputError, match=r"'deit_small_halv' cannot be read.*`prune-realloc recipes` lists"):
        load_recipe("deit_small_halv")
