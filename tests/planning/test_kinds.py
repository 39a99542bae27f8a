"""A kind of cost is declared in one place."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2] / "prune_realloc"

THIRD_KIND = """
from dataclasses import dataclass

from prune_realloc.core import cost

cost.KINDS["bytes"] = cost.CostKind(
    name="bytes", label="bytes", noun="bytes of weights", example="40M", emitted_example="9.2M"
)

@dataclass(frozen=True, kw_only=True)
class Cost(cost.Cost):
    bytes: int = 0

class Term(cost.Term):
    @property
    def bytes(self):
        return 4 * self.params

cost.Cost, cost.Term = Cost, Term

from support.analyses import DEIT_S, make_analysis
from support.pruned import EVEN

from prune_realloc.planning.plan import plan
from prune_realloc.planning.reallocate import reallocate
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.reader import check_recipe, parse_recipe
from prune_realloc.recipe.target import Target
from prune_realloc.recipe.writer import dump_recipe

analysis = make_analysis(**DEIT_S)
for allocation in ("damage", "uniform", "per-axis"):
    recipe = Recipe(budget={"keep_bytes": 0.6}, allocation=allocation)
    done = recipe.model_copy(update={"plan": plan(analysis, recipe)})
    found = done.plan
    assert found.kind == "bytes" and found.achieved == found.bytes == 4 * found.params, found
    assert found.source == 4 * 22_050_664 and 0.99 * found.requested <= found.achieved <= found.requested
    assert all("saves" not in site.reason or " bytes" in site.reason for site in found.sites.values())
    assert parse_recipe(dump_recipe(done, "x")) == done
same = plan(analysis, Recipe(budget={"bytes": 40_000_000}))
assert same.sites.keys() == analysis.widths.keys()
assert "budget: {bytes: 40M}" in dump_recipe(Recipe(budget={"bytes": "40M"}), "x")
(problem,) = check_recipe("budget: {bytes: 4M, keep_bytes: 0.5}")
assert "excludes keep_bytes 0.5" in problem.message, problem
both = plan(analysis, Recipe(budget={"keep_bytes": 0.6, "keep_macs": 0.55}))
assert both.also["bytes"].requested >= both.bytes and both.requested >= both.macs

target = Target(like="efficientvit_m0", bytes="9.2M")
network = reallocate(EVEN, target)
assert network.kind == "bytes" and network.requested == 9_200_000 and network.bytes == 4 * network.params
assert 0.99 * 9_200_000 <= network.bytes <= 9_200_000
assert abs(network.control_bytes - network.bytes) <= 0.01 * network.bytes
recipe = Recipe(target=target.model_copy(update={"network": network}))
assert parse_recipe(dump_recipe(recipe, "x")) == recipe
"""


def test_a_third_kind_needs_its_declaration_and_how_it_is_counted():
    tests = str(Path(__file__).parents[1])
    probe = f"import sys; sys.path.insert(0, {tests!r})\n{THIRD_KIND}"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_kind_is_named_where_recipes_and_plans_are_made():
    files = [path for room in ("planning", "recipe") for path in sorted((ROOT / room).glob("*.py"))]
    named = [path.name for path in files if re.search(r"\b(macs|params)\b", path.read_text().partition('"""')[2])]
    # the picture of what one threshold keeps is drawn by multiply-adds; the other is an example in a docstring
    assert named == ["ranking.py", "cost_fields.py"]
