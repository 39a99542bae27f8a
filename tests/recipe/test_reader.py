"""Text -> recipe, or every problem with its line."""

import subprocess
import sys
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from support.recipes import HALF, PLAN, one_message, problems_of

from prune_realloc.core.errors import InputError
from prune_realloc.recipe.budget import Budget
from prune_realloc.recipe.document import Recipe, RecipeAxis, Source
from prune_realloc.recipe.plan import Plan
from prune_realloc.recipe.reader import build_recipe, check_recipe, load_recipe, parse_recipe
from prune_realloc.recipe.rules import Rule


def test_import_is_light():
    heavy = "('torch', 'timm', 'numpy')"
    probe = f"import prune_realloc.recipe.reader, sys; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_all_problems_at_once_with_their_lines():
    text = """\
# comment
scorer: fishr
budget:
  keep_macs: 2
axes: [qk, vv]
rules:
  qk: {keep: 0.5, width: 8}
  ffn:
    - floor: 64
      cieling: 32
    - {blocks: 5-3}
  embed:
    blocks: 3
data:
  samples: 0
  samples: 3.5
keep_params: 0.5
plan:
  kind: latency
  sites: {}
"""
    assert problems_of(text) == [
        (2, "scorer"),
        (4, "budget.keep_macs"),
        (5, "axes[1]"),
        (7, "rules.qk.width"),
        (10, "rules.ffn[0].cieling"),
        (11, "rules.ffn[1].blocks"),
        (13, "rules.embed.blocks"),
        (16, "data.samples"),
        (16, "data.samples"),
        (17, "keep_params"),
        (18, "plan.achieved"),
        (18, "plan.macs"),
        (18, "plan.params"),
        (18, "plan.source"),
        (19, "plan.kind"),
    ]
    with pytest.raises(InputError, match=r"^a.yaml:2:1: scorer: .*'fisher'\? \(15 problems; .*validate a.yaml"):
        parse_recipe(text, where="a.yaml")


def test_a_gap_that_a_wrong_value_leaves_is_no_problem_of_its_own():
    assert problems_of("rules: {qk: {keep: 2}}") == [(1, "rules.qk.keep")]
    assert problems_of("budget: {macs: 1Q}") == [(1, "budget.macs")]


def test_unknown_keys_get_a_hint():
    assert "did you mean 'keep_macs'?" in one_message("budget: {macs: 9, keep_mac: 1}")
    assert "did you mean 'freeze'?" in one_message(HALF + "rules: {v: {freezes: true}}")
    assert "did you mean 'reason'?" in one_message(PLAN.replace("planned}", "planned, reasons: x}"))
    assert "belongs under budget" in one_message(HALF + "keep_macs: 0.5")
    assert "choose from rotate, refit, mean_shift, tune" in one_message(HALF + "compensate: {everything: true}")


def test_tuning_follows_a_refit():
    assert check_recipe(HALF + "compensate: {tune: 300}") == []
    assert "set refit: true, or tune: 0" in one_message(HALF + "compensate: {refit: false, tune: 300}")
    assert "at least 0" in one_message(HALF + "compensate: {tune: -1}")


def test_a_key_given_twice_is_a_problem():
    (problem,) = check_recipe("budget: {keep_macs: 0.5}\naxes: [qk]\nbudget: {keep_macs: 0.9}\n")
    assert (problem.line, problem.column, problem.field) == (3, 1, "budget")
    assert "first in line 1" in problem.message
    (problem,) = check_recipe(HALF + "rules:\n  ffn:\n  - floor: 8\n    floor: 16\n")
    assert (problem.line, problem.field) == (5, "rules.ffn[0].floor")


def test_tags_are_refused_and_run_nothing(tmp_path):
    witness = tmp_path / "witness"
    for tag in ("!!python/object/apply:os.system", "!!python/name:os.system", "!!int", "!own"):
        (problem,) = check_recipe(HALF + f"source: {{model: {tag} ['touch {witness}']}}")
        assert problem.line == 2
        assert f"tag '{tag}' is not allowed" in problem.message
    assert not witness.exists()


def test_aliases_are_refused():
    bomb = "a: &a [x, x]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(3))
    assert {p.line for p in check_recipe(bomb)} == {2, 3, 4}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 1),
        ("# nothing\n", 1),
        ("- a\n", 1),
        ("text", 1),
        (HALF + "axes: [qk", 2),
        (HALF + "a: b: c", 2),
        (HALF + "---\n" + HALF, 2),
        (HALF + "a: \x01", 2),
        (HALF + "? [a]\n: 1", 2),
        (HALF + "\tb: 1", 2),
        ("{a: " * 1000, 1),
        ("[" * 1000 + "]" * 1000, 1),
    ],
)
def test_what_is_no_yaml_mapping_is_one_problem(text, line):
    assert [p.line for p in check_recipe(text)] == [line]


def test_scalars_are_read_as_editors_read_them():
    # YAML 1.1 makes true, a number of base 60 and one of base 8 of these
    recipe = parse_recipe(HALF + "source: {model: no, ckpt: 4:11, architecture: 010}\ndata: {name: 2020-01-01}")
    assert recipe.source == Source(model="no", ckpt="4:11", architecture="010")
    assert recipe.data.name == "2020-01-01"


def test_values_from_the_command_line():
    recipe = build_recipe({"budget": {"macs": "80M"}, "data": {"preprocess": {"mean": (0.5,)}}})
    assert recipe.budget == Budget(macs=80_000_000)
    assert recipe.data.preprocess == {"mean": [0.5]}
    with pytest.raises(InputError, match=r"^budget.keep_macs: must be at most 1, got 2$"):
        build_recipe({"budget": {"keep_macs": 2}})


def test_unreadable_files(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(InputError, match=path.name):
            load_recipe(path)


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("abqk:[]{}&*!?#-,'\"\n \t0.5~|>%@`"), max_size=40))
def test_no_text_breaks_the_checker(text):
    problems = check_recipe(text)
    assert problems
    assert all(1 <= p.line <= text.count("\n") + 2 for p in problems)


text = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(["no", "1e3", "0o7", "~", "<<", "=", "- a"])


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(text, inner, max_size=2),
    max_leaves=4,
)


names = st.sampled_from([*Recipe.model_fields, *Rule.model_fields, *Plan.model_fields, *get_args(RecipeAxis), "[one]"])


wild = st.recursive(
    plain | st.floats() | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names | text | st.integers(), inner, max_size=4),
    max_leaves=12,
)


wild_recipes = st.dictionaries(st.sampled_from([*Recipe.model_fields]), wild, min_size=1)


@settings(max_examples=300, deadline=None)
@given(wild_recipes)
def test_no_values_break_the_checker(values):
    text = yaml.safe_dump(values, sort_keys=False)
    for problem in check_recipe(text):
        assert 1 <= problem.line <= text.count("\n") + 1
        assert problem.message
