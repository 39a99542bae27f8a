"""What run folders hold, found by the files that each verb writes, and read with everything checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from prune_realloc.core.analysis import META_FILE, SCORES_FILE, Analysis
from prune_realloc.core.errors import InputError
from prune_realloc.core.names import RECIPE_FILE, RESULT_FILE, STATE_FILE, UNITS_FILE
from prune_realloc.core.typed import read_typed
from prune_realloc.recipe.document import Recipe
from prune_realloc.recipe.reader import load_recipe
from prune_realloc.reporting.stored import Outcome, Swept
from prune_realloc.results.alike import HEADS_FILE, Heads
from prune_realloc.results.bench import BENCH_FILE, Bench
from prune_realloc.results.checked import CHECK_FILE, Check
from prune_realloc.results.curve import CURVE_FILE, Point, Sweep
from prune_realloc.results.evaluate import EVAL_FILE, Evaluation
from prune_realloc.results.profile import PROFILE_FILE, Profile
from prune_realloc.results.sandwiches import SANDWICHES_FILE, Sandwiches
from prune_realloc.results.trail import ROUND, TRAIL_FILE, Trail, trail_rows
from prune_realloc.results.variant import LATENCY_FILE, REALLOCATED, Variant
from prune_realloc.training.outputs import BEST, LAST, LOG_FILE, Finished, Row, read_log, read_result

_DEEP = 4
"""So many folders below a run are looked into: RUN/variants/efficientvit_m0/realloc, and one more."""
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A network that `apply` wrote."""

    recipe: Recipe
    """As it was carried out."""
    numbers: Mapping[str, Any]
    """As `Applied.summary` has them."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run of `train`."""

    rows: tuple[Row, ...]
    """One for each epoch that is done."""
    result: Finished | None
    """None: it is not finished."""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """What is there: folder, as it was given and below, -> what was read in it."""

    folders: tuple[str, ...]
    analyses: Mapping[str, Analysis] = field(default_factory=dict)
    checks: Mapping[str, Check] = field(default_factory=dict)
    heads: Mapping[str, Heads] = field(default_factory=dict)
    profiles: Mapping[str, Profile] = field(default_factory=dict)
    shares: Mapping[str, Sandwiches] = field(default_factory=dict)
    sweeps: Mapping[str, Sweep] = field(default_factory=dict)
    cuts: Mapping[str, Cut] = field(default_factory=dict)
    variants: Mapping[str, Variant] = field(default_factory=dict)
    trails: Mapping[str, Trail] = field(default_factory=dict)
    trainings: Mapping[str, Training] = field(default_factory=dict)
    benches: Mapping[str, Bench] = field(default_factory=dict)
    evaluations: Mapping[str, Evaluation] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()
    """What could not be read, and why."""

    @property
    def measured(self) -> tuple[str, ...]:
        """Folders with what `bench` or `eval` found."""
        return (*self.benches, *self.evaluations)

    @property
    def networks(self) -> dict[str, str]:
        """Checksum of a source's weights -> its architecture."""
        found = {a.model.get("weights_sha256"): a.model["architecture"] for a in self.analyses.values()}
        sources = [cut.recipe.source for cut in self.cuts.values()]
        sources += [point.recipe.source for sweep in self.sweeps.values() for point in sweep.points]
        found |= {source.weights_sha256: source.architecture for source in sources}
        return {str(weights): str(name) for weights, name in found.items() if weights is not None}


def read_runs(folders: Sequence[str | Path]) -> Runs:
    """Everything that lies in the folders and below.

    Raises:
        InputError: a folder is not there, is given twice, or none of them holds anything that a verb wrote and that
            can be read.
    """
    found: dict[str, dict[str, Any]] = {kind: {} for kind in _READERS}
    damaged = []
    for place in _places([Path(folder) for folder in folders]):
        for kind, (files, read) in _READERS.items():
            if all(not (place / file).exists() for file in files):
                continue
            try:
                thing = read(place)
            except InputError as error:
                damaged.append(str(error))
                continue
            if thing is not None:
                found[kind][str(place)] = thing
    found["trainings"] = {
        place: training  # those of `grow` are in its trail
        for place, training in found["trainings"].items()
        if not any(place.startswith(str(Path(trail) / ROUND)) for trail in found["trails"])
    }
    named = tuple(str(folder) for folder in folders)
    if not any(found.values()):
        empty = f"run {', '.join(map(repr, named))} holds nothing to report; run `analyze -o {named[0]}` first"
        raise InputError(next(iter(damaged), empty))
    return Runs(folders=named, damaged=tuple(dict.fromkeys(damaged)), **found)


def _places(folders: Sequence[Path]) -> Iterator[Path]:
    for folder in folders:
        if not folder.is_dir():
            raise InputError(f"run {str(folder)!r} is no folder; give one that a verb wrote with -o")
        if folders.count(folder) > 1:
            raise InputError(f"run {str(folder)!r} is given twice; leave one out")
    seen = set()
    for folder in folders:
        for name, below, _ in os.walk(folder):
            place = Path(name)
            deep = len(place.relative_to(folder).parts)
            below[:] = sorted(each for each in below if each not in (BEST, LAST) and deep < _DEEP)
            if place.resolve() not in seen:
                seen.add(place.resolve())
                yield place


def _json(kind: type[_Kind], file: str) -> Callable[[Path], _Kind]:
    """Reads one file of a folder."""
    return lambda folder: read_typed(kind, folder / file)


def _cut(folder: Path) -> Cut | None:
    """What `apply` wrote; the last of its files are the numbers. A training writes a file of that name too."""
    if (folder / LOG_FILE).exists() or not (folder / RECIPE_FILE).exists():
        return None
    if not (folder / RESULT_FILE).exists():
        raise InputError(f"{folder} has no {RESULT_FILE}, writing it was interrupted; run `apply` again")
    numbers = _json(Outcome, RESULT_FILE)(folder)
    recipe = load_recipe(folder / RECIPE_FILE)
    if recipe.plan is None:
        raise InputError(f"{folder / RECIPE_FILE} has no plan; run `apply` again")
    return Cut(recipe=recipe, numbers=asdict(numbers))


def _sweep(folder: Path) -> Sweep:
    content = _json(Swept, CURVE_FILE)(folder)
    if not content.points:
        raise InputError(f"{folder / CURVE_FILE} has no points; run `sweep` again")
    points = tuple(
        Point(
            budget=each.budget,
            recipe=load_recipe(folder / Path(each.recipe).name),
            numbers=asdict(each),
            seconds=each.seconds,
        )
        for each in content.points
    )
    return Sweep(
        kind=content.kind,
        examination_seconds=content.examination_seconds,
        notes=tuple(content.notes),
        taken={},
        points=points,
    )


def _heads(folder: Path) -> Heads:
    """Where an analysis lies beside it, of the same network."""
    found = _json(Heads, HEADS_FILE)(folder)
    if found.recipe is not None and (folder / META_FILE).exists() and not found.is_of(Analysis.load(folder)):
        raise InputError(f"{folder / HEADS_FILE} is of another network than the analysis beside it; run `heads` again")
    return found


def _variant(folder: Path) -> Variant | None:
    """The networks of one recipe, which lies in all of their folders: it is read in the first."""
    if folder.name != REALLOCATED:
        return None
    recipe = load_recipe(folder / RECIPE_FILE)
    if recipe.target is None or recipe.target.network is None:
        return None
    variant = Variant(name="", recipe=recipe, latency=None)
    if not (folder / LATENCY_FILE).exists():
        return variant
    latency = _json(Bench, LATENCY_FILE)(folder)
    timed = {(timing.model, timing.batch_size) for timing in latency.timings}
    if timed != set(product(variant.configs(), {size for _, size in timed})):
        raise InputError(f"{folder / LATENCY_FILE} is of other networks; run `emit` again")
    return replace(variant, latency=latency)


def _trail(folder: Path) -> Trail | None:
    """What `grow` wrote; None: no round is done."""
    found = _json(Trail, TRAIL_FILE)(folder)
    try:
        trail_rows(found.rounds)  # builds the configuration of every round
    except (KeyError, TypeError) as error:
        raise InputError(f"{folder / TRAIL_FILE} is damaged ({error!r}); make it again") from error
    return found if found.rounds else None


def _training(folder: Path) -> Training:
    path = folder / LOG_FILE
    rows = tuple(read_log(path)) if path.exists() else ()
    result = read_result(folder) if rows and (folder / RESULT_FILE).exists() else None
    return Training(rows=rows, result=result)


_READERS: dict[str, tuple[tuple[str, ...], Callable[[Path], Any]]] = {
    "analyses": ((META_FILE, SCORES_FILE), Analysis.load),
    "checks": ((CHECK_FILE,), _json(Check, CHECK_FILE)),
    "heads": ((HEADS_FILE,), _heads),
    "profiles": ((PROFILE_FILE,), _json(Profile, PROFILE_FILE)),
    "shares": ((SANDWICHES_FILE,), _json(Sandwiches, SANDWICHES_FILE)),
    "sweeps": ((CURVE_FILE,), _sweep),
    "cuts": ((RESULT_FILE, UNITS_FILE), _cut),
    "benches": ((BENCH_FILE,), _json(Bench, BENCH_FILE)),
    "evaluations": ((EVAL_FILE,), _json(Evaluation, EVAL_FILE)),
    "variants": ((RECIPE_FILE,), _variant),
    "trails": ((TRAIL_FILE,), _trail),
    "trainings": ((LOG_FILE, STATE_FILE), _training),
}
"""Kind of thing -> the files of which one is enough to expect it, and what reads it."""
