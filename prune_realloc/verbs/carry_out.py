"""A plan and an examined network -> the network that the plan describes, cut and made up for."""

from __future__ import annotations

from torch import nn

from prune_realloc.core.cost import total_cost
from prune_realloc.core.errors import InputError
from prune_realloc.data.stream import ImageStream
from prune_realloc.families import family_of
from prune_realloc.planning.plan import plan
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.damage import kept_units
from prune_realloc.pruning.examine import Examined
from prune_realloc.pruning.refit import refit_
from prune_realloc.pruning.sites import find_sites, widths
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.plan import Plan
from prune_realloc.results.evaluate import measure
from prune_realloc.runtime.networks import model_identity


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
    cost = total_cost(family_of(net).describe(net).terms, have).of(planned.kind)
    if planned.source != cost:
        raise InputError(
            f"plan.source: {planned.source:,} {planned.kind}, this model has {cost:,}, perhaps at "
            f"another input size; {remedy}"
        )


def carry_out(done: Plan, seen: Examined, recipe: Recipe, images: ImageStream | None) -> nn.Module:
    """Cut, and make up for it as the recipe says."""
    keep = kept_units(seen.curves, {name: site.width for name, site in done.sites.items()}, seen.sites)
    pruned = cut(seen.network, seen.sites, keep)
    if images is not None and (recipe.compensate.refit or recipe.compensate.mean_shift):
        refit_(pruned, seen.network, seen.sites, keep, seen.weights, images, ridge=recipe.compensate.refit)
    return pruned


def no_worse_than_uniform(
    done: Plan, pruned: nn.Module, seen: Examined, recipe: Recipe, images: ImageStream, net: nn.Module
) -> tuple[str, Plan, nn.Module, str]:
    """Allocation, plan, network and a note: those given, or the uniform ones where these are nearer to the source.

    Args:
        done, pruned: the plan, and the network that it made.
        net: the source.
    """
    try:
        even = plan(seen.analysis, recipe.model_copy(update={"allocation": "uniform"}))
    except InputError as error:
        return "damage", done, pruned, f"there is no uniform plan to compare with ({error})"
    control = carry_out(even, seen, recipe, images)
    # against the source's own predictions: on labels, noise of either sign drowns what a good cut adds
    planned, uniform = (
        float(measure(network, images, labelled=False, source=net).kl or 0.0) for network in (pruned, control)
    )
    text = f"calibration loss added: {planned:.2g} nats as planned, {uniform:.2g} with uniform widths of equal cost"
    if uniform < planned:
        return "uniform", even, control, f"{text}; the uniform plan was carried out"
    return "damage", done, pruned, text
