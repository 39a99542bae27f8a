"""What the runs were asked for, and the commands that make them again."""

from __future__ import annotations

import operator
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.taken import taken_from
from prune_realloc.pages.content import Panel, Table
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.target import Target
from prune_realloc.reporting.runs import Runs
from prune_realloc.reporting.tables import owners
from prune_realloc.results.curve import Sweep
from prune_realloc.results.profile import Profile
from prune_realloc.results.sandwiches import Sandwiches
from prune_realloc.results.trail import Trail
from prune_realloc.training.config import TrainConfig
from prune_realloc.training.outputs import Finished

_SOURCE_FLAGS = {"ckpt": "--ckpt", "model": "--model", "img_size": "--img-size", "ema": "--ema"}
_PART_FLAGS = {
    "data_dir": "--data-dir",
    "split": "--split",
    "class_map": "--class-map",
    "class_order": "--class-order",
    "samples": "--samples",
}
_IMAGE_FLAGS = {"name": "--data", **_PART_FLAGS, "seed": "--seed"}
_TRAINED_FLAGS = {**_PART_FLAGS, "eval_split": "--eval-split"}
Asked = tuple[Mapping[str, Any], Mapping[str, Any] | None]
"""Network and images, as recipes have them; None: there are no images."""
UNNAMED = ["--ckpt", "CHECKPOINT", "--data", "IMAGES"]
"""What stands for a network and images that a file does not name."""


def asked_panel(runs: Runs) -> Panel:
    """One row for each thing that was done, and the facts that each analysis went by."""
    owner = owners(runs.analyses)
    taken = tuple(_taken(analysis, owner[folder]) for folder, analysis in runs.analyses.items() if analysis.taken)
    rows = tuple(_rows(runs))
    return Panel(
        title="What was asked",
        text="Each row is one command: on which network and images it worked, and what was wanted.",
        parts=(Table(title="runs", columns=("folder", "verb", "network", "images", "asked for"), rows=rows), *taken),
    )


def _rows(runs: Runs) -> Iterator[tuple[str, ...]]:
    for folder, analysis in runs.analyses.items():
        images = "none" if analysis.data is None else f"{analysis.samples} of {analysis.data['name']}"
        yield folder, "analyze", analysis.model["architecture"], images, f"scores by {analysis.scorer}"
    for folder, check in runs.checks.items():
        of = runs.analyses[folder].model["architecture"] if folder in runs.analyses else ""
        yield folder, "analyze --check", of, str(check.samples), "does the ranking foretell what is lost?"
    for folder, cut in runs.cuts.items():
        yield folder, "apply", *_source(cut.recipe), _wanted(cut.recipe)
    for folder, sweep in runs.sweeps.items():
        budgets = ", ".join(f"{point.budget:g}" for point in sweep.points)
        yield folder, "sweep", *_source(sweep.points[0].recipe), f"{sweep.kind} at {budgets} of the source"
    for folder, variant in runs.variants.items():
        target = variant.recipe.target
        assert target is not None
        yield folder, "emit", *_source(variant.recipe), f"{_like(target)}, rule {variant.rule}"
    for folder, trail in runs.trails.items():
        yield folder, "grow", str(trail.settings.get("variant")), str(trail.settings.get("data")), _rounds(trail)
    for folder, training in runs.trainings.items():
        done = training.result
        named = ("", "") if done is None else (done.parent or "", done.data["name"])
        yield folder, "train", *named, _trained(len(training.rows), done)
    for folder, heads in runs.heads.items():
        source = {} if heads.recipe is None else heads.recipe["source"]
        of = str(source.get("architecture") or source.get("model") or source.get("ckpt") or "")
        yield folder, "heads", of, str(heads.samples), "how alike heads are, and what each is worth"
    for folder, profile in runs.profiles.items():
        models = ", ".join(dict.fromkeys(each.model for each in profile.passes))
        batches = ", ".join(dict.fromkeys(str(each.batch_size) for each in profile.passes))
        yield folder, "profile", models, "random", f"batch {batches} on {profile.device_name}"
    for folder, sweep_of in runs.shares.items():
        shares = ", ".join(f"{each.asked:g}" for each in sweep_of.networks)
        yield folder, "profile --sweep-mhsa", sweep_of.named, "random", f"shares of attention {shares}"


def _trained(epochs: int, done: Finished | None) -> str:
    """How long, on how many images, and taught by what."""
    said = f"{epochs} epoch" if epochs == 1 else f"{epochs} epochs"
    if done is None:
        return said
    images = f" on {done.data['images']:,} images" if done.data.get("images") else ""
    return f"{said}{images}{f', taught by {done.teacher}' if done.teacher else ''}"


def _source(recipe: Recipe) -> tuple[str, str]:
    """Network and images of a recipe."""
    source, data = recipe.source, recipe.data
    return str(
        source.architecture or source.model or source.ckpt or ""
    ), f"{data.samples} of {data.name or 'batches given in Python'}"


def _wanted(recipe: Recipe) -> str:
    """Budget, allocation and axes of a cut."""
    if recipe.budget is None:
        return "widths by rule"
    kind, value = next(iter(recipe.budget.model_dump(exclude_none=True).items()))
    return f"{kind} {value:g}, allocation {recipe.allocation}, of {', '.join(recipe.axes)}"


def _like(target: Target) -> str:
    budget = target.network and f", {target.network.requested:,} {target.network.kind}"
    return f"an EfficientViT like {target.like}{budget or ''}"


def _rounds(trail: Trail) -> str:
    return f"widths to move {trail.settings.get('rounds')} times, {len(trail.rounds)} networks are trained"


def _taken(analysis: Analysis, named: str) -> Table:
    rows = tuple((name, fact.text(), fact.why()) for name, fact in taken_from(analysis.taken).items())
    return Table(title=f"{named}What was taken", columns=("fact", "value", "what tells it"), rows=rows)


def reproduce_panel(runs: Runs) -> Panel:
    """Commands, versions and checksums."""
    rows = tuple(row for folder, analysis in runs.analyses.items() for row in _provenance(folder, analysis))
    return Panel(
        title="How to make it again",
        text="The same versions, network and images give the same numbers; times depend on the machine.",
        parts=(Table(title="provenance", columns=("folder", "what", "value"), rows=rows),) if rows else (),
        code=tuple(_commands(runs)),
    )


def _provenance(folder: str, analysis: Analysis) -> Iterator[tuple[str, str, str]]:
    yield folder, "weights, SHA-256", str(analysis.model.get("weights_sha256"))
    if analysis.data is not None:
        yield folder, "images, SHA-256", str(analysis.data.get("checksum"))
    yield folder, "seed", str(analysis.seed)
    yield folder, "versions", ", ".join(f"{name} {version}" for name, version in analysis.versions.items())


def _commands(runs: Runs) -> Iterator[str]:
    for folder, analysis in runs.analyses.items():
        checked = ["--check"] if folder in runs.checks else []
        yield _line("analyze", *flags_of(*asked_of(analysis)), "--scorer", analysis.scorer, *checked, "-o", folder)
    for folder, cut in runs.cuts.items():
        if (source := _analysis_of(cut.recipe, runs.analyses)) is not None:
            yield _line("plan", source, "--recipe", f"{folder}/recipe.yaml", "-o", f"{folder}.yaml")
        yield _line("apply", f"{folder}/recipe.yaml", "-o", folder)
    for folder, sweep in runs.sweeps.items():
        yield _sweep_line(folder, sweep)
    for folder, profile in runs.profiles.items():
        yield _profile_line(folder, profile)
    for folder, shares in runs.shares.items():
        yield _shares_line(folder, shares)
    for folder, heads in runs.heads.items():
        flags = UNNAMED if heads.recipe is None else flags_of(heads.recipe["source"], heads.recipe["data"])
        yield _line("heads", *flags, "-o", folder)
    for folder in runs.variants:
        yield _line("emit", f"{folder}/recipe.yaml", "-o", str(Path(folder).parent))
    for folder, trail in runs.trails.items():
        yield _grow_line(folder, trail)
    for folder, training in runs.trainings.items():
        if training.result is not None:
            yield _train_line(folder, training.result)


def _analysis_of(recipe: Recipe, analyses: Mapping[str, Analysis]) -> str | None:
    """The folder of the analysis that a recipe was planned of; of several of its network, the one that is alike."""
    source, data = recipe.source, recipe.data
    wanted = (recipe.scorer, data.name, data.samples, data.seed)
    alike = {}
    for folder, analysis in analyses.items():
        if source.weights_sha256 is not None and analysis.model.get("weights_sha256") == source.weights_sha256:
            images = analysis.data or {}
            own = (analysis.scorer, images.get("name"), analysis.samples, analysis.seed)
            alike[folder] = sum(map(operator.eq, wanted, own))
    return max(alike, key=alike.__getitem__, default=None)


def _sweep_line(folder: str, sweep: Sweep) -> str:
    """Into another folder: one that holds a sweep is refused."""
    budgets = ",".join(f"{point.budget:g}" for point in sweep.points)
    return _line("sweep", f"{folder}/{sweep.points[0].file}", "--budgets", budgets, "-o", f"{folder}-again")


def _profile_line(folder: str, profile: Profile) -> str:
    sizes = [part for size in dict.fromkeys(each.batch_size for each in profile.passes) for part in ("--batch", size)]
    networks = profile.named or ("CHECKPOINT",)
    networks = (*networks, *_how("", profile.how))
    return _line("profile", *networks, *map(str, sizes), "--threads", str(profile.threads), "-o", folder)


def _shares_line(folder: str, sweep: Sandwiches) -> str:
    shares = ",".join(f"{each.asked:g}" for each in sweep.networks)
    sizes = [part for size in sweep.networks[0].ms for part in ("--batch", str(size))]
    trained = [] if sweep.epochs is None else ["--train", "IMAGES"]
    network = sweep.named or "CHECKPOINT"
    return _line("profile", network, *_how("", sweep.how), "--sweep-mhsa", shares, *trained, *sizes, "-o", folder)


def _grow_line(folder: str, trail: Trail) -> str:
    said = trail.settings
    config = {name.removeprefix("config."): value for name, value in said.items() if name.startswith("config.")}
    where = [str(said.get("variant")), "--data", str(said.get("data")), "--rounds", str(said.get("rounds"))]
    teacher = _taught(said.get("teacher"), said.get("teacher_options"))
    return _line("grow", *where, *_flags(said, _TRAINED_FLAGS), *teacher, *_changed(config), "-o", folder)


def _changed(config: Mapping[str, Any]) -> list[str]:
    """The settings of a training that are not the usual ones."""
    usual = {name: field.default for name, field in TrainConfig.model_fields.items()}
    return [f"--set={name}={value}" for name, value in config.items() if value is not None and value != usual.get(name)]


def _taught(teacher: str | None, options: Mapping[str, Any] | None) -> list[str]:
    return ["--teacher", teacher, *_how("teacher-", options or {})] if teacher else []


def _train_line(folder: str, done: Finished) -> str:
    teacher, settings = _taught(done.teacher, done.teacher_options), _changed(done.config)
    how = {"model": done.architecture, "model_args": done.model_args}
    where = [done.parent or "NETWORK", *_how("", how), "--data", done.data["name"]]
    return _line("train", *where, *_flags(done.data, _TRAINED_FLAGS), *teacher, *settings, "-o", folder)


def asked_of(analysis: Analysis) -> Asked:
    """Network and images of an analysis."""
    recipe = analysis.as_recipe()
    return recipe["source"], None if analysis.data is None else recipe["data"]


def asked_of_cut(recipe: Recipe) -> Asked:
    """The same of a recipe that was carried out."""
    return recipe.source.model_dump(), recipe.data.model_dump() if recipe.data.name is not None else None


def network_argument(source: Mapping[str, Any], data: Mapping[str, Any] | None) -> list[str]:
    """A recipe's network as verbs take it that are given several; CHECKPOINT as in `flags_of`."""
    if source.get("model") and not source.get("ckpt"):
        return [str(source["model"]), *_pairs("--model-arg", source.get("model_args"))]
    if _is_shipped(source, data):
        return ["demo"]
    return [str(source.get("ckpt") or "CHECKPOINT"), *_how("", source)]


def _is_shipped(source: Mapping[str, Any], data: Mapping[str, Any] | None) -> bool:
    """Neither is named, and the images are those of the package."""
    named = source.get("ckpt") or source.get("model")
    return not named and data is not None and data.get("name") == "demo"


def flags_of(source: Mapping[str, Any], data: Mapping[str, Any] | None) -> list[str]:
    """The flags of a recipe's network and images; none: those that the package ships.

    A network or batches that were given in Python have no name: CHECKPOINT and IMAGES stand for them.
    """
    network = _flags(source, _SOURCE_FLAGS) + (["--pretrained"] if source.get("pretrained") else [])
    network += _pairs("--model-arg", source.get("model_args"))
    images = [] if data is None else _flags({"name": "IMAGES"} | dict(data), _IMAGE_FLAGS)
    if source.get("ckpt") or source.get("model"):
        return network + images
    return images[2:] if _is_shipped(source, data) else ["--ckpt", "CHECKPOINT", *network, *images]


def _how(whose: str, how: Mapping[str, Any]) -> list[str]:
    """Flags that say how a network is opened; of the teacher with that in front."""
    model = [f"--{whose}model", str(how["model"])] if how.get("model") else []
    return [*model, *_pairs("--teacher-arg" if whose else "--model-arg", how.get("model_args"))]


def _pairs(flag: str, args: Mapping[str, Any] | None) -> list[str]:
    return [f"{flag}={key}={'null' if value is None else value}" for key, value in (args or {}).items()]


def _flags(values: Mapping[str, Any], flags: Mapping[str, str]) -> list[str]:
    known = {flag: values.get(field) for field, flag in flags.items()}
    return [part for flag, value in known.items() if value not in (None, False) for part in (flag, str(value))]


def _line(verb: str, *parts: str) -> str:
    return shlex.join(["prune-realloc", verb, *parts])
