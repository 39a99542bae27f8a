"""A plan and an examined network -> the network that the plan describes, cut and made up for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.core.latency import LatencyTable
from prune_realloc.core.names import UNITS_FILE
from prune_realloc.core.structure import OUTER_AXES, site_place
from prune_realloc.data.apart import set_apart
from prune_realloc.data.calibration import Calibration
from prune_realloc.families import family_of
from prune_realloc.families.host import find_host
from prune_realloc.planning.all_axes import promises_more, with_all_axes
from prune_realloc.planning.choices import movable_axes
from prune_realloc.planning.plan import plan
from prune_realloc.pruning.cut import Keep, cut
from prune_realloc.pruning.damage import kept_units
from prune_realloc.pruning.examine import Examined
from prune_realloc.pruning.law import AxisRefused, check_cut_equals_mask
from prune_realloc.pruning.objectives import is_classifier
from prune_realloc.pruning.refit import refit_
from prune_realloc.pruning.ridge import Explained
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.pruning.tune import Tuning
from prune_realloc.pruning.units import Units, units_of
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.plan import Plan
from prune_realloc.runtime.networks import model_identity
from prune_realloc.verbs.judge import Judge

_UNIFORM = "with uniform widths"
_ALL_AXES = "with heads and blocks to go too"


@dataclass(frozen=True)
class Result:
    """What a plan made of a network."""

    plan: Plan
    network: nn.Module
    units: Mapping[str, Units]
    """By its sites: which units of the source they are."""
    explained: Explained | None = None
    """What the halves of the images say of the refit; None: there was none."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Which way to spend a budget was judged best."""

    recipe: Recipe
    result: Result
    note: str
    uniform: Result | None
    """Of uniform widths; None: the rules leave no such plan."""


def check_fit(recipe: Recipe, net: nn.Module, given: bool) -> list[str]:
    """Whether the recipe is for this network; returns what must be said.

    Args:
        given: the network was handed over, not opened from the recipe's source.

    Raises:
        InputError: the recipe's plan is for another network.
    """
    source, planned = recipe.source, recipe.plan
    other = source.weights_sha256 is not None and source.weights_sha256 != model_identity(net)["weights_sha256"]
    if other and not given and source.ckpt is None and source.model is None:
        raise InputError("source: the recipe is for a network that only its maker had at hand; give it with --ckpt")
    if planned is not None:
        _check_plan(planned, net, source.architecture or "another network")
    return ["the weights are not those that the recipe was made for"] if other else []


def _check_plan(planned: Plan, net: nn.Module, meant: str) -> None:
    have = widths(find_sites(net))
    remedy = f"the plan is for {meant}, remove it to plan again"
    for name in (*planned.sites, *have):
        if name not in have or name not in planned.sites:
            raise InputError(f"plan.sites: {'this model' if name not in have else 'the plan'} has no {name}; {remedy}")
        if planned.sites[name].of != have[name]:
            raise InputError(f"plan.sites.{name}: of {planned.sites[name].of}, this model has {have[name]}; {remedy}")
    inner = find_host(net).inner
    cost = total_cost(family_of(inner).describe(inner).terms, have).of(planned.kind)
    if planned.source != cost:
        raise InputError(
            f"plan.source: {planned.source:,} {planned.kind}, this model has {cost:,}, perhaps at "
            f"another input size; {remedy}"
        )


def lawful_plan(recipe: Recipe, seen: Examined, table: LatencyTable | None) -> tuple[Recipe, Plan, list[str]]:
    """The recipe, its plan, and notes; of axes that it does not name, those that cannot be cut here are left out.

    Args:
        table: of the network, where a budget limits time.

    Raises:
        InputError: there is no plan, or an axis that the recipe names cannot be cut.
    """
    given = recipe.plan is not None or "axes" in recipe.model_fields_set
    notes: list[str] = []
    while True:
        done = recipe.plan or plan(seen.analysis, recipe, table)
        try:
            check_cut_equals_mask(seen.network, seen.sites, _kept(done, seen))
        except AxisRefused as error:
            axes = movable_axes(seen.analysis, recipe)
            left = tuple(axis for axis in axes if axis != error.axis)
            if given or left in ((), axes):
                raise
            notes.append(f"axis {error.axis} is left whole: {error.why}")
            recipe = recipe.model_copy(update={"axes": left})
        else:
            return recipe, done, notes


def _kept(done: Plan, seen: Examined) -> Keep:
    return kept_units(seen.curves, {name: site.width for name, site in done.sites.items()}, seen.sites)


def carry_out(done: Plan, seen: Examined, recipe: Recipe, images: Calibration | None) -> Result:
    """Cut, and make up for it in closed form as the recipe says."""
    keep = _kept(done, seen)
    pruned, found = cut(seen.network, seen.sites, keep), None
    if images is not None and is_fitted(seen, recipe):
        found = refit_(pruned, seen.network, seen.sites, keep, seen.weights, images, ridge=recipe.compensate.refit)
    return Result(done, pruned, units_of(seen.sites, keep, seen.bases), found)


def tuned(
    refitted: Result, seen: Examined, recipe: Recipe, images: Calibration, judge: Judge | None
) -> tuple[Result, str]:
    """The same cut, each part refitted and then tuned, and a note; or what was refitted, where that is judged better.

    Raises:
        InputError: there are no images to judge parts by.
    """
    keep = _kept(refitted.plan, seen)
    pruned = cut(seen.network, seen.sites, keep)
    fitted, held = set_apart(images)
    tuning = Tuning(recipe.compensate.tune, recipe.data.seed, held)
    refit_(pruned, seen.network, seen.sites, keep, seen.weights, fitted, ridge=True, tuning=tuning)
    note = (
        f"tuned in {tuning.steps} steps each: {tuning.kept} of {len(tuning.errors)} parts came nearer to the source on "
        "images that no layer was fitted on, the others are as refitted"
    )
    if judge is None:
        return replace(refitted, network=pruned), note
    note += f"; {judge.name}: {judge.text(pruned)}{judge.unit}, {judge.text(refitted.network)} without"
    if judge.better(pruned, refitted.network):
        return replace(refitted, network=pruned), note
    return refitted, f"{note}; what was carried out is that without"


def is_fitted(seen: Examined, recipe: Recipe) -> bool:
    """Are layers fitted to the images, as far as there are any?"""
    inner = find_host(seen.network).inner
    return (recipe.compensate.refit or recipe.compensate.mean_shift) and bool(family_of(inner).describe(inner).branches)


def features_note(result: Result, seen: Examined) -> list[str]:
    """What to say where a network without a classifier, whose features somebody reads, has fewer of them now."""
    host, sites = find_host(seen.network), result.plan.sites
    streams = [site for name, site in sites.items() if site_place(name)[0] == "embed"]
    if not host.stands_alone or is_classifier(seen.network) or not streams or streams[-1].width == streams[-1].of:
        return []
    return [
        f"the model has no classifier, and of its last stream {streams[-1].width} of {streams[-1].of} channels are "
        f"left: what reads its features must take those that {UNITS_FILE} names, or cut --axes qk,v,ffn"
    ]


def best_judged(
    planned: Result,
    seen: Examined,
    recipe: Recipe,
    table: LatencyTable | None,
    images: Calibration,
    judge: Judge,
    *,
    asked: bool,
) -> Judged:
    """What was planned, or another way to spend the budget that is judged better.

    Args:
        judge: decides between them.
        asked: the axes were named, so that streams go because they shall.
    """
    found: dict[str, tuple[Recipe, Result]] = {"as planned": (recipe, planned)}
    missing = ""
    for name, other in _other_ways(planned, seen, recipe, asked).items():
        try:
            done = plan(seen.analysis, other, table)
            if name == _ALL_AXES:
                if not promises_more(done, planned.plan):
                    continue
                check_cut_equals_mask(seen.network, seen.sites, _kept(done, seen))  # of axes that were not checked yet
        except InputError as error:
            missing += f"; there is no plan {name} to compare with ({error})"
        else:
            found[name] = other, carry_out(done, seen, other, images)
    values = [f"{judge.text(planned.network)}{judge.unit} as planned"]
    values += [f"{judge.text(result.network)} {name}" for name, (_, result) in [*found.items()][1:]]
    where = f", on {judge.on}" if judge.on and is_fitted(seen, recipe) else ""
    best = "as planned"
    for name, (_, result) in found.items():
        if judge.better(result.network, found[best][1].network):
            best = name
    note = f"{judge.name}: {', '.join(values)}, at equal cost{where}{missing}"
    if best != "as planned":
        note = f"{note}; what was carried out is that {best}"
    recipe, result = found[best]
    return Judged(recipe=recipe, result=result, note=note, uniform=found[_UNIFORM][1] if _UNIFORM in found else None)


def _other_ways(planned: Result, seen: Examined, recipe: Recipe, asked: bool) -> dict[str, Recipe]:
    """By name; a stream's cut reaches every block, so what it was foretold to cost is held against none of it.

    Heads and blocks save more than widths inside of them where time is limited, and each block has a price of its own.
    """
    inside = tuple(axis for axis in movable_axes(seen.analysis, recipe) if axis not in OUTER_AXES)
    cut_streams = any(
        site.width < site.of for name, site in planned.plan.sites.items() if site_place(name)[0] == "embed"
    )
    found = {}
    ruled = any(rule.fixes_width or rule.ceiling for rule in recipe.rules_of("embed"))
    if cut_streams and inside and not asked and not ruled:
        found["with the streams whole"] = recipe.model_copy(update={"axes": inside})
    if not asked and (wider := with_all_axes(seen.analysis, recipe, planned.plan)) is not None:
        found[_ALL_AXES] = wider
    return found | {_UNIFORM: recipe.model_copy(update={"allocation": "uniform"})}
