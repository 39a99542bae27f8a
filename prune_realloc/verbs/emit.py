"""The verb `emit`: what pruning shows -> folders with a reallocated EfficientViT and its two controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from prune_realloc.checkpoints.load import load_model
from prune_realloc.checkpoints.save import config_file, network_files, weights_file
from prune_realloc.core.analysis import META_FILE, Analysis
from prune_realloc.core.cost import KINDS
from prune_realloc.core.errors import InputError
from prune_realloc.core.files import make_folder, write_files
from prune_realloc.core.names import EFFICIENTVIT, RECIPE_FILE, WEIGHTS_FILE
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import SIZES
from prune_realloc.models.efficientvit_stock import stock_args
from prune_realloc.planning.curves import with_rule
from prune_realloc.planning.evidence import preprocessing_facts, read_evidence
from prune_realloc.planning.reallocate import reallocate
from prune_realloc.pruning.inherit import inherit as inherit_weights
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.reader import build_recipe
from prune_realloc.recipe.target import Target
from prune_realloc.recipe.writer import dump_recipe
from prune_realloc.results.bench import Bench, bench
from prune_realloc.results.export import deployed
from prune_realloc.results.model_card import model_card
from prune_realloc.results.variant import LATENCY_FILE, NETWORKS, REALLOCATED, Variant
from prune_realloc.runtime.global_state import random_state_kept
from prune_realloc.runtime.networks import model_identity

_SHAPE = ("img_size", "in_chans", "num_classes")
"""Fields of the target that a source usually tells."""
_CARD_FILE = "model_card.md"
_UNTRAINED = (RECIPE_FILE, _CARD_FILE, "config.json")
"""The files of a network without weights."""


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
    """A reallocated EfficientViT, its uniform control and the unmeasured network of equal cost, for each budget.

    Args:
        source: what pruning shows: the folder of an analysis, a planned recipe, or the folder of a pruned network.
        recipe: its `target` is what is wanted (without it, that of a recipe as source); its budget is the share at
            which an analysis is read (without one, half of what Q/K, V and FFN cost, or less, as long as no more than
            0.01 nats per image are lost), its axes and rules what may go.
        target: fields of the recipe's target that override it, such as `{"like": "efficientvit_m2"}`. Without a rule
            it is `stream` where the source shows a stream's damage curve, else `kept`.
        grid: one variant for each of M0 to M5, at its cost, in place of the recipe's budget.
        inherit: checkpoint of the EfficientViT that `source` is an analysis of; all networks start with what survives
            of its weights.
        out: folder to write to; each variant becomes `realloc/`, `control/` and `unmeasured/` there, or in `NAME/` with
            `grid`.
        timed: measure latency.

    Raises:
        InputError: the source does not show what is needed, or a budget cannot be met.
    """
    shown = Analysis.load(source) if isinstance(source, str | Path) and (Path(source) / META_FILE).exists() else source
    read, facts = read_evidence(shown, recipe)
    given = (recipe or read).target or Target()
    wanted = _wanted(given, facts, target or {}, grid)
    asked = [_asked(read, facts, wanted, like) for like in (SIZES if grid else ("",))]
    analysis = shown if isinstance(shown, Analysis) else None
    ruled = [with_rule(one.target or Target(), given, analysis) for one in asked]
    for note in (ruled[0][1], _other_channels(facts, wanted)):
        if progress is not None and note is not None:
            progress(note)
    found = [
        _variant(one, like, fields)
        for one, like, (fields, _) in zip(asked, SIZES if grid else ("",), ruled, strict=True)
    ]
    weights: list[dict[str, bytes]] = [{} for _ in found]
    if inherit is not None:
        net, scores = _ancestor(shown, inherit)
        weights = [_inherited(variant, net, scores) for variant in found]
    for place, variant in enumerate(found if timed else ()):
        if progress is not None:
            progress(f"timing {variant.name or 'the networks'}")
        found[place] = replace(variant, latency=_latency(variant))
    if out is not None:
        for variant, files in zip(found, weights, strict=True):
            _write(variant, Path(out) / variant.name, facts, files, None if inherit is None else str(inherit))
    return tuple(found)


def _wanted(given: Target, facts: Mapping[str, Any], target: Mapping[str, Any], grid: bool) -> dict[str, Any]:
    """Fields of the target: what the source tells, over it the recipe's, and over both those of `target`."""
    wanted = {key: facts[key] for key in _SHAPE if key in facts}
    wanted |= given.model_dump(exclude_unset=True, exclude_none=True, exclude={"network"})
    if any(kind in target for kind in KINDS) or grid:
        wanted = {key: value for key, value in wanted.items() if key not in KINDS}
    for field in ("like", *KINDS):
        if grid and field in target:
            raise InputError(f"grid: excludes {field}, which sets one budget; leave one of the two out")
    wanted |= target
    if missing := [field for field in _SHAPE if wanted.get(field) is None]:
        flags = ", ".join(f"--{field.replace('_', '-')}" for field in missing)
        raise InputError(f"target: the source does not tell {', '.join(missing)}; give {flags}")
    return wanted


def _other_channels(facts: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """What to say where images have other channels than those that the normalisation is of."""
    taken = preprocessing_facts(facts)
    if "mean" not in taken or facts.get("in_chans") in (None, wanted["in_chans"]):
        return None
    return (
        f"images have {wanted['in_chans']} channels, the source's {facts['in_chans']}: mean {taken['mean']} and std "
        f"{taken.get('std')} are the source's; put those of your data into config.json before training"
    )


def _asked(read: Recipe, facts: Mapping[str, Any], wanted: Mapping[str, Any], like: str) -> Recipe:
    """The recipe of one budget: that of `like`, or where it is empty, the one of `wanted`."""
    values = read.model_dump(exclude_none=True, exclude={"target"})
    values["data"] |= {"preprocess": prepare} if (prepare := preprocessing_facts(facts)) else {}
    return build_recipe(values | {"target": dict(wanted) | ({"like": like} if like else {})})


def _variant(asked: Recipe, name: str, ruled: Mapping[str, Any]) -> Variant:
    """The networks of one recipe; `ruled`: the fields of its target that say the rule."""
    assert asked.plan is not None
    assert asked.target is not None
    target = asked.target.model_copy(update=dict(ruled))
    network = reallocate(asked.plan.sites, target)
    done = asked.model_copy(update={"target": target.model_copy(update={"network": network})})
    return Variant(name=name, recipe=done, latency=None)


def _ancestor(source: str | Path | Analysis | Recipe, ckpt: str | Path) -> tuple[EfficientVit, Mapping[str, Any]]:
    """The network that hands on its weights, and the scores of its units."""
    if not isinstance(source, Analysis):
        raise InputError("inherit: needs the scores of an analysis as source, a recipe has none")
    opened = {key: source.model[key] for key in ("ema", "img_size", "model_args") if source.model.get(key) is not None}
    net = load_model(ckpt=ckpt, **opened)
    if not isinstance(net, EfficientVit):
        raise InputError(
            f"inherit: {str(ckpt)!r} is a {type(net).__name__}; only an EfficientViT (MSRA) hands on its weights"
        )
    if model_identity(net)["weights_sha256"] != source.model["weights_sha256"]:
        raise InputError(
            f"inherit: {str(ckpt)!r} is not the network of the analysis; give the checkpoint that was analysed"
        )
    return net, source.scores


def _inherited(variant: Variant, net: EfficientVit, scores: Mapping[str, Any]) -> dict[str, bytes]:
    """Network -> its weights as a file."""
    found = {}
    for name, config in variant.configs().items():
        with random_state_kept():
            torch.default_generator.manual_seed(0)
            fresh = EfficientVit(config)
        inherit_weights(net, fresh, scores)
        found[name] = weights_file(fresh)
    return found


def _latency(variant: Variant) -> Bench:
    with random_state_kept():
        nets = {name: deployed(EfficientVit(config)) for name, config in variant.configs().items()}
    config = variant.configs()[REALLOCATED]
    return bench(nets, config.input_size, batch_sizes=(1, 32), seconds=1.0)


def _write(
    variant: Variant, folder: Path, facts: Mapping[str, Any], weights: Mapping[str, bytes], inherited: str | None
) -> None:
    """The folders of the networks, as one set of files."""
    recipe = dump_recipe(variant.recipe, f"prune-realloc emit {RECIPE_FILE} -o variants")
    source = facts.get("architecture")
    files: dict[str, bytes] = {}
    configs = variant.configs()
    for name in NETWORKS:
        if name not in weights and (folder / name / WEIGHTS_FILE).exists():
            raise InputError(
                f"output {str(folder / name)!r} holds the weights of another network; choose another folder"
            )
    for name, config in configs.items():
        make_folder(folder / name)
        stock, lost = stock_args(config)
        described = config_file(
            EFFICIENTVIT,
            config.args(),
            num_classes=config.num_classes,
            num_features=config.embed_dim[-1],
            input_size=config.input_size,
            pretrained_cfg=preprocessing_facts(facts),
            more={"stock": {"architecture": "EfficientVitMsra", "model_args": stock, "not_expressed": lost}},
        )
        card = model_card(variant, name, str(folder / name), source, inherited)
        beside = {RECIPE_FILE: recipe.encode(), _CARD_FILE: card.encode()}
        own = network_files(described, weights.get(name), beside)
        files |= {f"{name}/{file}": content for file, content in own.items()}
    gone = [f"{name}/{file}" for name in NETWORKS if name not in configs for file in _UNTRAINED]
    timed = f"{REALLOCATED}/{LATENCY_FILE}"
    if variant.latency is None:
        gone.append(timed)
    else:
        files = {timed: variant.latency.file()} | files
    write_files(folder, files, gone)
