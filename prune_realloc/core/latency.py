"""The table of measured times of a network: what was measured, where, and the time of any widths. No torch here."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from prune_realloc.core.cost import Term, Widths
from prune_realloc.core.errors import InputError, first_fault
from prune_realloc.core.files import json_file, make_folder, write_file
from prune_realloc.core.names import Runtime, count_threads
from prune_realloc.core.prices import Price, fitted_prices, parts_of_a_millisecond, total
from prune_realloc.core.structure import without_dropped_blocks

FORMAT_VERSION = 2
"""1 timed compiled networks without frozen weights, and ONNX Runtime with threads that waited for each other."""
LEAST_MEASURED = 8
"""So many networks, the source among them, are measured at least."""
_DAMAGE = (ValueError, TypeError, AttributeError)
_Count = Annotated[int, Field(ge=1, le=10**9)]
_Width = Annotated[int, Field(ge=0, le=10**9)]
_Duration = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Under which times hold."""

    device: str
    """What the processor or the graphics card calls itself."""
    device_type: str
    """cpu or cuda."""
    runtime: Runtime
    threads: _Count
    """For one operator; on a graphics card they launch its kernels only."""
    batch: _Count
    """Images at a time."""
    versions: Mapping[str, str]
    """Package -> its version."""

    def differences(self, other: Conditions) -> list[str]:
        """What differs in `other`, in words."""
        plain = [field.name for field in dataclasses.fields(self) if field.name != "versions"]
        found = [f"{name} {getattr(other, name)}" for name in plain if getattr(self, name) != getattr(other, name)]
        names = sorted({*self.versions, *other.versions})
        mine, theirs = self.versions, other.versions
        return found + [f"{name} {theirs.get(name)}" for name in names if mine.get(name) != theirs.get(name)]

    def __str__(self) -> str:
        return f"{self.device}, {self.runtime}, {count_threads(self.threads)}, batch {self.batch}"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One network that was timed."""

    widths: Mapping[str, _Width]
    """Of every site; 0 for a block that is gone."""
    ms: _Duration
    """For one batch: median of its time over the source's in the same round, times the source's median."""
    spread: _Finite
    """Interquartile range of that ratio over its median."""


@dataclass(frozen=True, kw_only=True)
class LatencyTable:
    """What a network and others that were cut from it took, and by that what any widths take.

    Times are read as a sum over components whose prices are fitted to the networks that were measured (`core.prices`).
    """

    conditions: Conditions
    input_shape: tuple[_Count, ...]
    """(C, H, W) of one image."""
    terms: tuple[Term, ...]
    """The cost of the network, as an analysis has it."""
    modules: str
    """Checksum of the kinds of its modules, as `module_kinds` has it: of equal shapes, GELU takes longer than ReLU."""
    measured: Annotated[tuple[Measured, ...], Field(min_length=LEAST_MEASURED)]
    """The source first."""
    seconds: _Finite
    """What the measurement took."""
    notes: tuple[str, ...] = ()
    """What must be known of it: a machine that was not quiet."""

    @cached_property
    def prices(self) -> tuple[Price, ...]:
        """What units of the sites take, in `parts` of a millisecond."""
        return _fitted(self.terms, self.measured)

    @property
    def parts(self) -> int:
        """So many of what prices count are a millisecond."""
        return parts_of_a_millisecond(self.measured[0].ms)

    @cached_property
    def error(self) -> tuple[float, float]:
        """Median and 95th percentile of the relative error at a network that is left out of the fit, each in turn."""
        errors = []
        for place, one in enumerate(self.measured):
            others = [*self.measured[:place], *self.measured[place + 1 :]]
            parts = parts_of_a_millisecond(others[0].ms)
            errors.append(abs(total(_fitted(self.terms, others), one.widths) / parts / one.ms - 1))
        return float(np.median(errors)), float(np.quantile(errors, 0.95))

    def predict(self, widths: Widths) -> float:
        """Milliseconds for one batch of a network of these widths.

        Args:
            widths: of every site, as `find_sites` has them; 0 for a block that is gone.

        Raises:
            InputError: a site is missing, or the network has no such site.
        """
        self._check(widths)
        return total(self.prices, widths) / self.parts

    def components(self, widths: Widths) -> dict[str, float]:
        """Milliseconds of each component; what no width changes is `rest`. Arguments as of `predict`."""
        self._check(widths)
        left, found = without_dropped_blocks(widths), dict[str, float]()
        for price in self.prices:
            found[price.component] = found.get(price.component, 0.0) + float(price.at(left)) / self.parts
        return found

    def require(self, terms: Sequence[Term], widths: Widths, modules: str, asked: Mapping[str, str | int]) -> None:
        """Raises InputError where the table is of another network, or does not hold for what is asked for.

        Args:
            terms: those of the network.
            widths: of every site of the network.
            modules: the kinds of its modules; empty where an older analysis does not tell.
            asked: field of a budget (`device`, `runtime`, `threads`, `batch`) -> what it says.
        """
        own = digest(self.terms, self.measured[0].widths, self.input_shape, self.modules if modules else "")
        if digest(terms, widths, self.input_shape, modules) != own:
            raise InputError(
                "latency_table: it was measured of another network, or at another image size; leave it out to measure "
                "this one"
            )
        here = self.conditions
        for name, value in asked.items():
            has = here.device_type if name == "device" else getattr(here, name)
            if value != has:
                raise InputError(
                    f"budget.{name}: {value}, the latency table of {here} has {has}; give {has}, or another table"
                )

    def _check(self, widths: Widths) -> None:
        for name in sorted({*widths} ^ {*self.measured[0].widths}):
            raise InputError(
                f"widths: {name} is {'no site of this network' if name in widths else 'missing'}; see find_sites"
            )

    def save(self, path: str | Path) -> None:
        """Write the table as JSON."""
        path = Path(path)
        make_folder(path.parent)
        content = {"format_version": FORMAT_VERSION} | dataclasses.asdict(self)
        content["ms"] = self.components(self.measured[0].widths)  # for who reads the file
        content["error"] = self.error
        write_file(path, json_file(content))

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read what `save` wrote.

        Raises:
            InputError: there is no such file, it is damaged, or of another format version.
        """
        try:
            content = Path(path).read_text()
            version = json.loads(content).get("format_version")
            if version not in (1, FORMAT_VERSION):
                raise InputError(f"{path}: format_version {version!r}, this program reads {FORMAT_VERSION}")
            table = TypeAdapter(cls).validate_json(content, strict=True)
            _check_sites(table)
            runtime = table.conditions.runtime
            if version == 1 and runtime != "eager":
                raise InputError(f"{path}: format_version 1 timed {runtime} otherwise than now; measure it again")
            return table
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        except InputError:
            raise
        except _DAMAGE as error:
            what = first_fault(error) if isinstance(error, ValidationError) else str(error)
            raise InputError(f"{path}: the latency table is damaged ({what}); measure it again") from error


def digest(terms: Sequence[Term], widths: Widths, input_shape: Sequence[int], modules: str) -> str:
    """A checksum of the shapes of a network and the kinds of its modules: equal where the same table holds."""
    plain = [[dataclasses.astuple(term) for term in terms], sorted(widths.items()), list(input_shape), modules]
    return hashlib.sha256(json.dumps(plain).encode()).hexdigest()


def _fitted(terms: Sequence[Term], measured: Sequence[Measured]) -> tuple[Price, ...]:
    return fitted_prices(terms, [one.widths for one in measured], [one.ms for one in measured])


def _check_sites(table: LatencyTable) -> None:
    """Raises ValueError where nothing can be fitted to the networks."""
    sites = table.measured[0].widths.keys()
    if missing := {name for term in table.terms for name in term.sites} - sites:
        raise ValueError(f"no width of {min(missing)}")
    for place, one in enumerate(table.measured):
        if one.widths.keys() != sites:
            raise ValueError(f"measured.{place}.widths: of other sites than the first")
