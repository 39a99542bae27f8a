"""Values on the command line are read as in recipes."""

import pytest

from prune_realloc.cli.values import parse_list, parse_numbers, parse_pairs
from prune_realloc.core.errors import InputError
from prune_realloc.recipe.reader import parse_recipe

TEXTS = ("1e-1", "1e-3", "on", "yes", "4:11", "010", "[1, 2e1]", "{a: 1}", "null", "'1'", ".5", "2024-01-01")


@pytest.mark.parametrize("text", TEXTS)
def test_a_value_is_the_same_here_and_in_a_recipe(text):
    recipe = parse_recipe(f"budget: {{keep_macs: 0.5}}\nsource: {{model_args: {{x: {text}}}}}\n")
    assert parse_pairs([f"x={text}"], "model-arg") == recipe.source.model_args


@pytest.mark.parametrize("text", ["x", "1x=2", "x=[", "x=!!python/name:os.system", "x=*a"])
def test_pairs_that_are_none(text):
    with pytest.raises(InputError, match="model-arg"):
        parse_pairs([text], "model-arg")


def test_lists():
    assert parse_list("stem-strides", "2, 2") == [2, 2]
    assert parse_list("img-size", "32", single=True) == 32
    assert parse_list("img-size", "32,64", single=True) == [32, 64]
    assert parse_numbers("mean", "0.5,1") == [0.5, 1.0]
    for text in ("0.4,x", "true", ""):
        with pytest.raises(InputError, match="is not a list of numbers"):
            parse_numbers("mean", text)
