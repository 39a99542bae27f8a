import json
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_realloc.core.errors import InputError
from prune_realloc.recipe.budget import Budget
from prune_realloc.recipe.document import Data, Recipe, RecipeAxis, Scorer, Source
from prune_realloc.recipe.plan import Plan, SitePlan
from prune_realloc.recipe.reader import build_recipe, check_recipe, load_recipe, parse_recipe
from prune_realloc.recipe.rules import Rule
from prune_realloc.recipe.writer import dump_recipe, recipe_schema

ROOT = Path(__file__).parents[2]
SCHEMA = ROOT / "prune_realloc" / "recipe" / "recipe.schema.json"
SHIPPED = sorted((ROOT / "recipes").rglob("*.yaml"))
HALF = "budget: {keep_macs: 0.5}\n"


def problems_of(text: str) -> list[tuple[int, str]]:
    return [(p.line, p.field) for p in check_recipe(text)]


def one_message(text: str) -> str:
    (problem,) = check_recipe(text)
    return problem.message


def test_shipped_recipes_are_found():
    assert len(SHIPPED) >= 11


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_recipe_is_right_and_names_its_command_and_schema(path):
    command, schema = path.read_text().splitlines()[:2]
    recipe = load_recipe(path)
    if recipe.target is None:
        assert command.startswith(f"# prune-realloc apply recipes/{path.name} --ckpt ")
        assert command.endswith(" -o pruned/")
    else:
        assert command == f"# prune-realloc emit runs/deit --recipe recipes/{path.name} -o variants/"
    assert (path.parent / schema.removeprefix("# yaml-language-server: $schema=")).resolve() == SCHEMA
    assert parse_recipe(dump_recipe(recipe, "x")) == recipe


def test_paper_recipe_gives_the_papers_widths():
    recipe = load_recipe(ROOT / "recipes" / "paper_qk_small_v_wide_ffn_narrow.yaml")
    assert recipe.budget is None
    for block in range(12):
        assert 64 * recipe.rule("qk", block).keep == 16
        assert recipe.rule("v", block) == Rule(freeze=True)
        assert 1536 * recipe.rule("ffn", block).keep == (768 if block < 9 else 576)
        assert recipe.rule("ffn", block).round_to == 16


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


def test_scorers_are_those_of_the_scoring_room():
    from prune_realloc.pruning.scorers import SCORERS

    assert set(get_args(Scorer)) == set(SCORERS)


def test_axes_are_those_of_the_network_and_whole_blocks():
    from prune_realloc.core.structure import AXES

    assert set(get_args(RecipeAxis)) == {*AXES, "block"}


def test_import_is_light():
    heavy = "('torch', 'timm', 'numpy')"
    probe = f"import prune_realloc.recipe.reader, sys; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("budget", "kind", "limit"),
    [
        ("{keep_macs: 0.5}", "macs", 500),
        ("{keep_macs: 0.29}", "macs", 290),  # 0.29 * 1000 is below 290 in binary
        ("{keep_macs: 0.0015}", "macs", 1),  # never above the budget
        ("{keep_macs: 5e-1}", "macs", 500),
        ("{keep_macs: 1}", "macs", 1000),
        ("{keep_params: 0.25}", "params", 25),
        ("{macs: 600M}", "macs", 600_000_000),
        ("{macs: 1.2G}", "macs", 1_200_000_000),
        ('{macs: "80 m"}', "macs", 80_000_000),
        ("{macs: 1.5e3}", "macs", 1500),
        ("{params: 10M}", "params", 10_000_000),
        ("{params: 7}", "params", 7),
    ],
)
def test_budget_in_numbers(budget, kind, limit):
    parsed = parse_recipe(f"budget: {budget}").budget
    assert (parsed.kind, parsed.limit({"macs": 1000, "params": 100}[parsed.kind])) == (kind, limit)


@pytest.mark.parametrize(
    ("budget", "complaint"),
    [
        ("{}", "set one of keep_macs, keep_params, macs, params"),
        ("{keep_macs: null}", "set one of"),
        ("{keep_macs: 0.5, macs: 80M}", "excludes keep_macs 0.5"),
        ("{keep_macs: 0}", "must be above 0, got 0"),
        ("{keep_params: 1.5}", "must be at most 1, got 1.5"),
        ("{keep_macs: .nan}", "must be"),
        ("{keep_macs: true}", "must be a number, got true"),
        ("{macs: 80Q}", "such as 80M"),
        ("{macs: 1.0000001M}", "must be a whole number"),
        ("{macs: 0}", "must be at least 1"),
        ("{macs: .inf}", "must be a whole number"),
        ("{macs: true}", "must be a whole number"),
        ("half", "must be a mapping"),
    ],
)
def test_wrong_budget(budget, complaint):
    assert complaint in one_message(f"budget: {budget}")


def test_a_large_budget_stays_exact():
    recipe = build_recipe({"budget": {"macs": 123_456_789_012_345_678}})
    assert parse_recipe(dump_recipe(recipe, "x")) == recipe


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


PLAN = """
plan: {kind: macs, requested: 500, achieved: 480, source: 1000, macs: 480, params: 90,
       sites: {blocks.0.qk: {width: 16, of: 64, reason: planned}}}
"""


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
    assert "choose from rotate, refit, mean_shift" in one_message(HALF + "compensate: {everything: true}")


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


def test_numbers_of_numpy_become_plain_ones():
    np = pytest.importorskip("numpy")
    site = SitePlan(width=np.int64(16), of=np.int32(64), reason="")
    plan = Plan(
        kind="macs", achieved=np.int64(4), source=8, macs=4, params=2, damage=np.float64(0.1), sites={"a": site}
    )
    assert parse_recipe(dump_recipe(Recipe(plan=plan), "x")).plan == plan


def test_unreadable_files(tmp_path):
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "none.yaml", tmp_path, tmp_path / "binary.yaml"):
        with pytest.raises(InputError, match=path.name):
            load_recipe(path)


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


@settings(max_examples=150, deadline=None)
@given(st.text(st.sampled_from("abqk:[]{}&*!?#-,'\"\n \t0.5~|>%@`"), max_size=40))
def test_no_text_breaks_the_checker(text):
    problems = check_recipe(text)
    assert problems
    assert all(1 <= p.line <= text.count("\n") + 2 for p in problems)


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


def test_validate_lists_every_problem(run_cli, tmp_path):
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(HALF)
    bad.write_text("budget: {keep_macs: 2}\nscorer: fishr\n")
    assert run_cli("validate", good) == (0, f"{good}: ok\n", "")
    code, out, err = run_cli("validate", good, bad)
    assert (code, err) == (2, "")
    assert out.splitlines() == [
        f"{good}: ok",
        f"{bad}:1:10: budget.keep_macs: must be at most 1, got 2",
        f"{bad}:2:1: scorer: unknown value 'fishr'; did you mean 'fisher'?",
    ]


def test_validate_as_json(run_cli, tmp_path):
    (tmp_path / "bad.yaml").write_text("budget: {keep_macs: 2}\n")
    code, out, _ = run_cli("validate", "--json", tmp_path / "bad.yaml")
    assert code == 2
    assert json.loads(out) == [
        {
            "file": str(tmp_path / "bad.yaml"),
            "problems": [{"line": 1, "column": 10, "field": "budget.keep_macs", "message": "must be at most 1, got 2"}],
        }
    ]


def test_validate_prints_the_schema(run_cli):
    code, out, _ = run_cli("validate", "--schema")
    assert (code, out) == (0, SCHEMA.read_text())


def test_validate_needs_a_file_that_is_there(run_cli, tmp_path):
    for args, complaint in (((), "needs a FILE"), ((tmp_path / "none.yaml",), "none.yaml' cannot be read")):
        code, out, err = run_cli("validate", *args)
        assert (code, out) == (2, "")
        assert complaint in err


def test_validate_imports_nothing_heavy():
    probe = f"""import sys
sys.argv = ["prune-realloc", "validate", {str(SHIPPED[0])!r}]
from prune_realloc.cli.app import main
try:
    main()
except SystemExit:
    pass
print("HEAVY", [m for m in ("torch", "timm", "matplotlib") if m in sys.modules])
"""
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True).stdout
    assert "ok" in out
    assert "HEAVY []" in out


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
