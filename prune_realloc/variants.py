"""The verb `emit`: what pruning shows -> folders with a reallocated EfficientViT and its uniform control."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from prune_realloc.analysis import META_FILE, Analysis, make_folder, write_files
from prune_realloc.architectures import EFFICIENTVIT
from prune_realloc.bench import Bench, bench
from prune_realloc.card import model_card
from prune_realloc.checkpoint import PREPROCESSING, config_file, load_model, model_identity, weights_file
from prune_realloc.cost import Cost
from prune_realloc.efficientvit import EfficientVit
from prune_realloc.efficientvit_config import SIZES, EfficientVitConfig, stock_args
from prune_realloc.errors import InputError
from prune_realloc.export import deployed
from prune_realloc.inherit import inherit as inherit_weights
from prune_realloc.planner import INNER_AXES, plan
from prune_realloc.prune import RECIPE_FILE
from prune_realloc.reallocate import reallocate
from prune_realloc.recipe import Recipe, build_recipe, dump_recipe, load_recipe
from prune_realloc.structure import site_place
from prune_realloc.target import Network, Target

REALLOCATED, CONTROL = "realloc", "control"
"""The two folders of an emitted variant."""
_KEEP = 0.5
"""Share of what Q/K, V and FFN of the source cost at which it is read what pruning keeps, without a recipe's budget."""
_FELT = 0.01
"""Nats per image of predicted damage. A source that loses less at `_KEEP` is cut further, until that much is lost: as
long as nothing is lost, what is kept does not show what matters (examples/reallocation_study)."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A reallocated network and its control."""

    name: str
    """Folder under the output; empty: the output itself."""
    recipe: Recipe
    """With `target.network`."""
    latency: Bench | None
    """Of both in their deploy form, untrained; None: not measured."""

    @property
    def network(self) -> Network:
        assert self.recipe.target is not None
        assert self.recipe.target.network is not None
        return self.recipe.target.network

    def configs(self) -> dict[str, EfficientVitConfig]:
        """The control first, as it is what the other is compared with."""
        return {CONTROL: EfficientVitConfig(**self.network.control_args),
                REALLOCATED: EfficientVitConfig(**self.network.args)}  # fmt: skip

    def components(self) -> dict[str, dict[str, Cost]]:
        """Network -> component -> cost, with the same components in both."""
        found = {name: config.component_costs for name, config in self.configs().items()}
        names = list(dict.fromkeys(part for costs in found.values() for part in costs))
        return {name: {part: costs.get(part, Cost()) for part in names} for name, costs in found.items()}


def emit(
    source: str | Path | Analysis | Recipe,
    *,
    recipe: Recipe | None = None,
    target: Mapping[str, Any] | None = None,
    grid: bool = False,
    inherit: str | Path | None = None,
    out: str | Path | None = None,
    timed: bool = True,
    progress: Callable[[str], None] | None = None,
) -> tuple[Variant, ...]:
    """A reallocated EfficientViT and its uniform control of equal cost, for each budget.

    Args:
        source: what pruning shows: the folder of an analysis, a planned recipe, or the folder of a pruned network.
        recipe: its `target` is what is wanted (without it, that of a recipe as source); its budget is the share at
            which an analysis is read (without one, half of what Q/K, V and FFN cost, or less, as long as no more than
            `_FELT` is lost), its axes and rules what may go.
        target: fields of the recipe's target that override it, such as `{"like": "efficientvit_m2"}`.
        grid: one variant for each of M0 to M5, at its cost, in place of the recipe's budget.
        inherit: checkpoint of the EfficientViT that `source` is an analysis of; both networks start with what survives
            of its weights.
        out: folder to write to; each variant becomes `realloc/` and `control/` there, or in `NAME/` with `grid`.
        timed: measure latency.

    Raises:
        InputError: the source does not show what is needed, or a budget cannot be met.
    """
    read, facts = _evidence(source, recipe)
    given = (recipe or read).target or Target()
    wanted = given.model_dump(exclude_unset=True, exclude={"network"})
    for field in ("like", "macs", "params"):
        if grid and field in (target or {}):
            raise InputError(f"grid: excludes {field}, which sets one budget; leave one of the two out")
    outside = {key: facts[key] for key in ("img_size", "in_chans", "num_classes") if key in facts}
    for field, other in (("macs", "params"), ("params", "macs")):
        if field in (target or {}):
            wanted.pop(other, None)
    wanted = outside | {key: value for key, value in wanted.items() if value is not None} | dict(target or {})
    if unknown := [field for field in ("img_size", "in_chans", "num_classes") if wanted.get(field) is None]:
        flags = ", ".join(f"--{field.replace('_', '-')}" for field in unknown)
        raise InputError(f"target: the source does not tell {', '.join(unknown)}; give {flags}")
    if grid:
        wanted = {key: value for key, value in wanted.items() if key not in ("macs", "params")}
    found = []
    for like in SIZES if grid else (None,):
        values = read.model_dump(exclude_none=True, exclude={"target"})
        values["data"] |= {"preprocess": prepare} if (prepare := _preprocessing(facts)) else {}
        full = build_recipe(values | {"target": wanted | ({"like": like} if like else {})})
        assert read.plan is not None
        assert full.target is not None
        network = reallocate(read.plan.sites, full.target)
        done = full.model_copy(update={"target": full.target.model_copy(update={"network": network})})
        found.append(Variant(name=like or "", recipe=done, latency=None))
    weights: list[dict[str, bytes]] = [{} for _ in found]
    if inherit is not None:
        net, scores = _ancestor(source, inherit)
        weights = [_inherited(variant, net, scores) for variant in found]
    for place, variant in enumerate(found if timed else ()):
        if progress is not None:
            progress(f"timing {variant.name or 'both networks'}")
        found[place] = replace(variant, latency=_latency(variant))
    if out is not None:
        for variant, files in zip(found, weights, strict=True):
            _write(variant, Path(out) / variant.name, facts, files, None if inherit is None else str(inherit))
    return tuple(found)


def _ancestor(source: str | Path | Analysis | Recipe, ckpt: str | Path) -> tuple[EfficientVit, Mapping[str, Any]]:
    """The network that hands on its weights, and the scores of its units."""
    if isinstance(source, str | Path) and (Path(source) / META_FILE).exists():
        source = Analysis.load(source)
    if not isinstance(source, Analysis):
        raise InputError("inherit: needs the scores of an analysis as source, a recipe has none")
    opened = {key: source.model[key] for key in ("ema", "img_size", "model_args") if source.model.get(key)}
    net = load_model(ckpt=ckpt, **opened)
    if not isinstance(net, EfficientVit):
        raise InputError(f"inherit: {str(ckpt)!r} is a {type(net).__name__}; only an EfficientViT (MSRA) hands on its "
                         "weights")  # fmt: skip
    if model_identity(net)["weights_sha256"] != source.model["weights_sha256"]:
        raise InputError(f"inherit: {str(ckpt)!r} is not the network of the analysis; give the checkpoint that was "
                         "analysed")  # fmt: skip
    return net, source.scores


def _inherited(variant: Variant, net: EfficientVit, scores: Mapping[str, Any]) -> dict[str, bytes]:
    """Network -> its weights as a file."""
    found = {}
    for name, config in variant.configs().items():
        torch.manual_seed(0)
        fresh = EfficientVit(config)
        inherit_weights(net, fresh, scores)
        found[name] = weights_file(fresh)
    return found


def _evidence(source: str | Path | Analysis | Recipe, recipe: Recipe | None) -> tuple[Recipe, dict[str, Any]]:
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
        raise InputError(f"source {str(path)!r} does not exist; give the folder of an analysis or of a pruned network, "
                         "or a planned recipe")  # fmt: skip
    if path.is_file():
        planned = _planned(load_recipe(path), str(path))
        return planned, _recipe_facts(planned)
    if (path / META_FILE).exists():
        return _read_analysis(Analysis.load(path), recipe)
    if (path / RECIPE_FILE).exists():
        return _planned(load_recipe(path / RECIPE_FILE), str(path / RECIPE_FILE)), _config_facts(path / "config.json")
    raise InputError(f"source {str(path)!r} has neither {META_FILE} nor {RECIPE_FILE}; give the folder that "
                     "`analyze -o` or `apply -o` wrote")  # fmt: skip


def _recipe_facts(recipe: Recipe) -> dict[str, Any]:
    known = {} if recipe.source.architecture is None else {"architecture": recipe.source.architecture}
    return known | _preprocessing(recipe.data.preprocess or {})


def _planned(recipe: Recipe, where: str) -> Recipe:
    if recipe.plan is None:
        raise InputError(f"{where} has no plan, so it does not show what pruning keeps; run `plan`, or give the folder "
                         "of an analysis")  # fmt: skip
    return recipe


def _read_analysis(analysis: Analysis, recipe: Recipe | None) -> tuple[Recipe, dict[str, Any]]:
    """The plan at the recipe's budget; without rounding, where the recipe does not ask for it."""
    taken = {"budget", "allocation", "axes", "rules"}
    own = {} if recipe is None else recipe.model_dump(exclude_unset=True, exclude_none=True, include=taken)
    axes = [axis for axis in INNER_AXES if any(name.endswith(f".{axis}") for name in analysis.widths)]
    _check_trained(analysis, axes)
    inside = tuple(name for name in analysis.widths if site_place(name)[0] in axes)
    movable = sum(term.cost(analysis.widths).macs for term in analysis.terms if set(term.sites) & set(inside))

    def planned(keep: float) -> Recipe:
        share = round(1 - (1 - keep) * movable / analysis.cost().macs, 4)
        values: dict[str, Any] = {} if analysis.unit == "nats" else {"allocation": "per-axis"}
        values |= {"budget": {"keep_macs": share}, "axes": axes, "rules": {axis: {"round_to": 1} for axis in axes}}
        done = build_recipe(analysis.as_recipe() | values | own)
        return done.model_copy(update={"plan": plan(analysis, done)})

    done = planned(_KEEP)
    if "budget" not in own and analysis.unit == "nats":
        low, high = 0.0, _KEEP
        while high - low > 0.01:
            middle = (low + high) / 2
            try:
                tried = planned(middle)
            except InputError:  # below what the rules allow
                low = middle
                continue
            if _damage(tried) <= _FELT:
                done, high = tried, middle
            else:
                low = middle
    return done, _facts(analysis)


def _damage(recipe: Recipe) -> float:
    assert recipe.plan is not None
    return recipe.plan.damage or 0.0


def _check_trained(analysis: Analysis, axes: Sequence[str]) -> None:
    names = [name for name in analysis.scores if site_place(name)[0] in axes]
    dead = sum(not analysis.scores[name].any() for name in names)
    if 2 * dead > len(names):
        raise InputError(f"source: {dead} of {len(names)} sites have only zero scores; the network is untrained, "
                         "train it first")  # fmt: skip


def _facts(analysis: Analysis) -> dict[str, Any]:
    found = {"architecture": analysis.model["architecture"]}
    found |= _preprocessing(analysis.data or {})
    if "input_size" in analysis.model:
        chans, height, width = analysis.model["input_size"]
        found |= {"in_chans": chans, "num_classes": analysis.model["num_classes"]}
        found |= {"img_size": height} if height == width else {}
    return found


def _config_facts(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        config = content["pretrained_cfg"]
        chans, height, width = config["input_size"]
        found = {"in_chans": chans, "num_classes": content["num_classes"],
                 "architecture": content["model_args"].get("source", content["architecture"])}  # fmt: skip
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"{error.args[0]} is missing" if isinstance(error, KeyError) else "a value is of the wrong kind"
        raise InputError(f"{path} is not the configuration of a network as `apply` writes it: {what}") from error
    found |= {"img_size": height} if height == width else {}
    return found | _preprocessing(config)


def _preprocessing(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What images of the new network must look like: as those of its source."""
    return {key: facts[key] for key in PREPROCESSING if facts.get(key)}


def _latency(variant: Variant) -> Bench:
    nets = {name: deployed(EfficientVit(config)) for name, config in variant.configs().items()}
    config = variant.configs()[REALLOCATED]
    return bench(nets, config.input_size, batch_sizes=(1, 32), seconds=1.0)


def _write(variant: Variant, folder: Path, facts: Mapping[str, Any], weights: Mapping[str, bytes],
           inherited: str | None) -> None:  # fmt: skip
    recipe = dump_recipe(variant.recipe, f"prune-realloc emit {RECIPE_FILE} -o variants")
    source = facts.get("architecture")
    for name, config in variant.configs().items():
        make_folder(folder / name)
        if name not in weights and (folder / name / "model.safetensors").exists():
            raise InputError(
                f"output {str(folder / name)!r} holds the weights of another network; choose another folder"
            )
        stock, lost = stock_args(config)
        described = config_file(
            EFFICIENTVIT, config.args(), num_classes=config.num_classes, num_features=config.embed_dim[-1],
            input_size=config.input_size, pretrained_cfg=_preprocessing(facts),
            more={"stock": {"architecture": "EfficientVitMsra", "model_args": stock, "not_expressed": lost}},
        )  # fmt: skip
        files = {"model.safetensors": weights[name]} if name in weights else {}
        write_files(folder / name, files | {
            RECIPE_FILE: recipe.encode(),
            "model_card.md": model_card(variant, name, str(folder / name), source, inherited).encode(),
            "config.json": described,
        })  # fmt: skip
