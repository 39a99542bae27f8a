"""What pruning shows, from any of its files: a planned recipe and the facts of its images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prune_realloc.core.analysis import META_FILE, Analysis
from prune_realloc.core.cost import DEFAULT_KIND
from prune_realloc.core.errors import InputError
from prune_realloc.core.intervals import guessing
from prune_realloc.core.names import PREPROCESSING, RECIPE_FILE
from prune_realloc.core.structure import INNER_AXES, site_place
from prune_realloc.planning.plan import plan
from prune_realloc.planning.retention import check_measured
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.reader import build_recipe, load_recipe

_KEEP = 0.5
"""Share of what Q/K, V, FFN and hidden of the source cost at which is read what pruning keeps, without a budget."""
_FELT = 0.01
"""Nats per image of predicted damage. A source that loses less at `_KEEP` is cut further, until that much is lost: as
long as nothing is lost, what is kept does not show what matters (examples/reallocation_study)."""


def read_evidence(source: str | Path | Analysis | Recipe, recipe: Recipe | None) -> tuple[Recipe, dict[str, Any]]:
    """A planned recipe, and what is known of the source's images and classes."""
    planned_source = isinstance(source, Recipe) or not (
        isinstance(source, Analysis) or (Path(source) / META_FILE).exists()
    )
    own = set() if recipe is None else recipe.model_fields_set & {"budget", "axes", "rules", "allocation", "plan"}
    if own and (planned_source or "plan" in own):
        raise InputError(
            f"recipe: its {', '.join(sorted(own))} would not count, because "
            + (
                "the source is planned already; give the folder of an analysis as source"
                if planned_source
                else "the source is an analysis; give the recipe as source instead"
            )
        )
    if isinstance(source, Recipe):
        return _planned(source, "the recipe"), _recipe_facts(source)
    if isinstance(source, Analysis):
        return _read_analysis(source, recipe)
    path = Path(source)
    if not path.exists():
        raise InputError(
            f"source {str(path)!r} does not exist; give the folder of an analysis or of a pruned network, "
            "or a planned recipe"
        )
    if path.is_file():
        planned = _planned(load_recipe(path), str(path))
        return planned, _recipe_facts(planned)
    if (path / META_FILE).exists():
        return _read_analysis(Analysis.load(path), recipe)
    if (path / RECIPE_FILE).exists():
        return _planned(load_recipe(path / RECIPE_FILE), str(path / RECIPE_FILE)), _config_facts(path / "config.json")
    raise InputError(
        f"source {str(path)!r} has neither {META_FILE} nor {RECIPE_FILE}; give the folder that "
        "`analyze -o` or `apply -o` wrote"
    )


def _recipe_facts(recipe: Recipe) -> dict[str, Any]:
    source = recipe.source
    known: dict[str, Any] = {} if source.architecture is None else {"architecture": source.architecture}
    known |= {} if source.input_size is None else _image_facts(source.input_size)
    known |= {} if source.num_classes is None else {"num_classes": source.num_classes}
    return known | preprocessing_facts(recipe.data.preprocess or {})


def _image_facts(input_size: Sequence[int]) -> dict[str, Any]:
    """Channels and size of an image of shape (C, H, W), as a recipe's target has them."""
    chans, height, width = input_size
    return {"in_chans": chans, "img_size": height if height == width else (height, width)}


def _planned(recipe: Recipe, where: str) -> Recipe:
    if recipe.plan is None:
        raise InputError(
            f"{where} has no plan, so it does not show what pruning keeps; run `plan`, or give the folder "
            "of an analysis"
        )
    return _measured(recipe)


def _measured(recipe: Recipe) -> Recipe:
    """The planned recipe, whose widths say what matters.

    Raises:
        InputError: every site kept the same share.
    """
    assert recipe.plan is not None
    if recipe.allocation == "uniform":
        raise InputError(
            "allocation: uniform keeps the same share of every site, so nothing was measured; plan with allocation: "
            "damage"
        )
    check_measured(recipe.plan.sites)
    return recipe


def _read_analysis(analysis: Analysis, recipe: Recipe | None) -> tuple[Recipe, dict[str, Any]]:
    """The plan at the recipe's budget; without rounding, where the recipe does not ask for it."""
    taken = {"budget", "allocation", "axes", "rules"}
    own = {} if recipe is None else recipe.model_dump(exclude_unset=True, exclude_none=True, include=taken)
    present = {site_place(name)[0] for name in analysis.widths}
    axes = [axis for axis in INNER_AXES if axis in present]
    _check_trained(analysis, axes)
    done = _planned_at(_KEEP, analysis, axes, own)
    if "budget" not in own and analysis.unit == "nats":
        low, high = 0.0, _KEEP
        while high - low > 0.01:
            middle = (low + high) / 2
            try:
                tried = _planned_at(middle, analysis, axes, own)
            except InputError:  # below what the rules allow
                low = middle
                continue
            if _damage(tried) <= _FELT:
                done, high = tried, middle
            else:
                low = middle
    return _measured(done), _facts(analysis)


def _planned_at(keep: float, analysis: Analysis, axes: Sequence[str], own: Mapping[str, Any]) -> Recipe:
    """The recipe that keeps a share of what `axes` cost, planned; `own` overrides it."""
    inside = {name for name in analysis.widths if site_place(name)[0] in axes}
    touching = [term.cost(analysis.widths) for term in analysis.terms if set(term.sites) & inside]
    movable = sum(cost.of(DEFAULT_KIND) for cost in touching)
    share = round(1 - (1 - keep) * movable / analysis.cost().of(DEFAULT_KIND), 4)
    asked: dict[str, Any] = {"budget": {f"keep_{DEFAULT_KIND}": share}, "axes": axes}
    asked |= {"rules": {axis: {"round_to": 1} for axis in axes}}
    done = build_recipe(analysis.as_recipe() | asked | dict(own))
    return done.model_copy(update={"plan": plan(analysis, done)})


def _damage(recipe: Recipe) -> float:
    assert recipe.plan is not None
    return recipe.plan.damage or 0.0


def _check_trained(analysis: Analysis, axes: Sequence[str]) -> None:
    names = [name for name in analysis.scores if site_place(name)[0] in axes]
    dead = sum(not analysis.scores[name].any() for name in names)
    if 2 * dead > len(names):
        raise InputError(
            f"source: {dead} of {len(names)} sites have only zero scores; the network is untrained, train it first"
        )
    _check_above_chance(analysis)


def _check_above_chance(analysis: Analysis) -> None:
    """Raises InputError where the labels were given and the network is no better than guessing them."""
    classes = analysis.model.get("num_classes") or 0
    if analysis.top1 is None or classes < 2:
        return
    chance, error = guessing(classes, analysis.samples)
    if analysis.top1 <= chance + error:
        raise InputError(
            f"source: its top-1 of {analysis.top1:.1%} on {analysis.samples:,} images is not above chance "
            f"({chance:.1%} +- {error:.1%} with {classes:,} classes); train it first, or analyze it with the labels "
            "that it has learned (--class-map, --class-order)"
        )


def _facts(analysis: Analysis) -> dict[str, Any]:
    found = {"architecture": analysis.model["architecture"]}
    found |= preprocessing_facts(analysis.data or {})
    if "input_size" in analysis.model:
        found |= _image_facts(analysis.model["input_size"]) | {"num_classes": analysis.model["num_classes"]}
    return found


def _config_facts(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        config = content["pretrained_cfg"]
        found = _image_facts(config["input_size"]) | {
            "num_classes": content["num_classes"],
            "architecture": content["model_args"].get("source", content["architecture"]),
        }
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else "a value is of the wrong kind"
        raise InputError(f"{path} is not the configuration of a network as `apply` writes it: {what}") from error
    return found | preprocessing_facts(config)


def preprocessing_facts(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What images of the new network must look like: as those of its source."""
    return {key: facts[key] for key in PREPROCESSING if facts.get(key)}
