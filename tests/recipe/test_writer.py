"""What is written, and that it reads back."""

import json
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recipes import SCHEMA, SHIPPED

from prune_realloc.recipe.budget import Budget
from prune_realloc.recipe.document import Data, Recipe, RecipeAxis, Scorer, Source
from prune_realloc.recipe.plan import Plan, SitePlan
from prune_realloc.recipe.reader import build_recipe, parse_recipe
from prune_realloc.recipe.rules import Rule
from prune_realloc.recipe.writer import dump_recipe, recipe_schema


def test_schema_file_equals_the_code():
    assert json.loads(SCHEMA.read_text()) == recipe_schema(), "run: prune-realloc validate --schema > the file"


def test_schema_describes_every_field():
    schema = recipe_schema()
    for name, part in {"Recipe": schema, **schema["$defs"]}.items():
        for field, content in part["properties"].items():
            assert content.get("description"), f"{name}.{field}"


def test_schema_accepts_shipped_recipes():
    jsonschema = pytest.importorskip("jsonschema")
    for path in SHIPPED:
        jsonschema.validate(yaml.safe_load(path.read_text()), recipe_schema())


def test_dump_by_hand():
    recipe = build_recipe(
        {
            "source": {"architecture": "deit_tiny_patch16_224"},
            "budget": {"macs": "1.2G"},
            "rules": {"ffn": [{"floor": 8}, {"blocks": "7", "freeze": True}], "qk": {"round_to": 4}},
            "plan": {
                "kind": "macs",
                "achieved": 1_190_000_000,
                "source": 2_000_000_000,
                "macs": 1_190_000_000,
                "params": 9,
                "sites": {
                    "embed": {"width": 192, "of": 192, "reason": "not in axes"},
                    "blocks.0.qk": {"width": 16, "of": 64, "reason": "hull: 0.1, then floor"},
                },
            },
        }
    )
    assert (
        dump_recipe(recipe, "prune-realloc apply half.yaml -o pruned/")
        == """\
# prune-realloc apply half.yaml -o pruned/
# yaml-language-server: $schema=recipe.schema.json
format_version: 1
source:
  architecture: deit_tiny_patch16_224
budget: {macs: 1.2G}
allocation: damage
axes: [qk, v, ffn]
rules:
  qk: {round_to: 4}
  ffn:
    - {floor: 8}
    - {blocks: '7', freeze: true}
compensate: {rotate: true, refit: true, mean_shift: true}
plan:
  kind: macs
  achieved: 1190000000
  source: 2000000000
  macs: 1190000000
  params: 9
  sites:
    embed:       {width: 192, of: 192, reason: not in axes}
    blocks.0.qk: {width: 16, of: 64, reason: 'hull: 0.1, then floor'}
"""
    )


def test_a_command_of_several_lines_stays_a_comment():
    recipe = build_recipe({"budget": {"keep_macs": 0.5}})
    assert parse_recipe(dump_recipe(recipe, "a\nscorer: taylor")) == recipe


text = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["no", "1e3", "0o7", "~", "<<", "=", "- a"])


count = st.integers(1, 10**12)


share = st.floats(0, 1, exclude_min=True)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)


rule = st.builds(
    Rule,
    blocks=st.none() | st.integers(0, 99) | st.sampled_from(["7", "4-11", "0,3-5"]) | st.just([0, 1]),
    keep=st.none() | share,
    floor=st.none() | st.integers(1, 8),
    ceiling=st.none() | st.integers(8, 99),
    round_to=st.none() | count,
)


site = st.builds(lambda width, more, reason: SitePlan(width=width, of=width + more, reason=reason), count, count, text)


recipes = st.builds(
    Recipe,
    source=st.builds(Source, model=st.none() | text, model_args=st.dictionaries(text, plain, max_size=2)),
    data=st.builds(Data, name=st.none() | text, split=text, samples=count, labels=st.booleans()),
    scorer=st.sampled_from(get_args(Scorer)),
    budget=st.builds(Budget, macs=count) | st.builds(Budget, params=count) | st.builds(Budget, keep_params=share),
    axes=st.lists(st.sampled_from(get_args(RecipeAxis)), unique=True, min_size=1),
    rules=st.dictionaries(st.sampled_from(["qk", "v", "ffn", "heads"]), rule | st.lists(rule, max_size=3)),
    plan=st.none(),
)


plans = st.builds(
    Plan,
    kind=st.just("macs"),
    achieved=count,
    source=count,
    macs=count,
    params=count,
    damage=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    sites=st.dictionaries(text, site, max_size=3),
)


@settings(max_examples=150, deadline=None)
@given(recipes, text)
def test_what_was_written_reads_back(recipe, command):
    written = dump_recipe(recipe, command)
    assert parse_recipe(written) == recipe
    assert dump_recipe(parse_recipe(written), command) == written


@settings(max_examples=100, deadline=None)
@given(plans)
def test_a_plan_reads_back(plan):
    assert parse_recipe(dump_recipe(Recipe(plan=plan), "x")).plan == plan


def test_numbers_of_numpy_become_plain_ones():
    np = pytest.importorskip("numpy")
    site = SitePlan(width=np.int64(16), of=np.int32(64), reason="")
    plan = Plan(
        kind="macs", achieved=np.int64(4), source=8, macs=4, params=2, damage=np.float64(0.1), sites={"a": site}
    )
    assert parse_recipe(dump_recipe(Recipe(plan=plan), "x")).plan == plan
