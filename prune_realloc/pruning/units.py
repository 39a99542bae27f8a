"""Which units of the source the units of a result are, so that other tensors can follow."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, StrictInt, TypeAdapter, ValidationError

from prune_realloc.core.errors import InputError, first_fault
from prune_realloc.core.structure import Site, site_name, site_place
from prune_realloc.pruning.cut import Keep, blocks_that_go, units_left
from prune_realloc.pruning.rotate import Basis

UNITS_FORMAT = 1
BasisName = Literal["source", "rotated"]
_DAMAGED = "units: this is not the content of a units.json"


@dataclass(frozen=True, eq=False)
class Units:
    """The units of one site of a result."""

    source: str
    """The site of the source; of another block where blocks in front of it went."""
    of: int
    """Units of that site."""
    index: np.ndarray
    """Of each unit of the result: its number among those of the source, ascending."""
    basis: BasisName = "source"
    """`rotated`: each is a mixture of the units of one head of the source, `index` counts those mixtures."""
    rotation: tuple[np.ndarray, np.ndarray] | None = None
    """Mixtures by source units of each head, twice (heads, width, width): for the rows of q and of k, or for those of v
    and the columns of proj."""


def units_of(sites: Sequence[Site], keep: Keep, bases: Mapping[str, Basis]) -> dict[str, Units]:
    """Site of the result -> its units.

    Args:
        sites, keep: those of the source, and what stayed of them.
        bases: those that pairs were put into before the cut.
    """
    gone, left = blocks_that_go(sites, keep), units_left(sites, keep)
    found = {}
    for site in sites:
        if site.block in gone:
            continue
        block = None if site.block is None else site.block - sum(each < site.block for each in gone)
        basis = bases.get(site.name)
        found[site_name(site.axis, block, site.stage, site.nth)] = Units(
            source=site.name,
            of=site.units,
            index=left[site.name],
            basis="source" if basis is None else "rotated",
            rotation=None if basis is None else (basis[0].cpu().numpy(), basis[1].cpu().numpy()),
        )
    return found


def units_file(units: Mapping[str, Units]) -> bytes:
    """The content of `units.json`: all but the matrices of the rotations."""
    sites: dict[str, Any] = {
        name: {"source": each.source, "of": each.of, "basis": each.basis, "units": each.index.tolist()}
        for name, each in units.items()
    }
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in sites.items())
    return f'{{\n "format_version": {UNITS_FORMAT},\n "sites": {{\n{rows}\n }}\n}}\n'.encode()


def _known(name: str) -> str:
    try:
        site_place(name)
    except (ValueError, IndexError) as error:
        raise ValueError(f"{name!r} is no name of a site") from error
    return name


_SiteName = Annotated[str, AfterValidator(_known)]


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One site in the file."""

    source: _SiteName
    of: Annotated[StrictInt, Field(lt=2**63)]  # as an index holds it
    basis: BasisName
    units: tuple[StrictInt, ...]

    def __post_init__(self) -> None:
        for number, next_one in zip(self.units, (*self.units, self.of)[1:], strict=True):
            if not 0 <= number < next_one:
                raise ValueError(f"units must ascend from 0 to below {self.of}; {number} is out of place")


_ROWS = TypeAdapter(dict[_SiteName, _Row])


def read_units(content: bytes | str) -> dict[str, Units]:
    """What `units_file` wrote; the matrices of the rotations are not in it.

    Raises:
        InputError: it is no such file, or units of a site are no numbers of its source's, or do not ascend.
    """
    try:
        whole = json.loads(content)
        if whole["format_version"] != UNITS_FORMAT:
            raise InputError(f"units: format_version {whole['format_version']!r}, this program reads {UNITS_FORMAT}")
        rows = _ROWS.validate_python(whole["sites"])
    except ValidationError as error:
        raise InputError(f"{_DAMAGED} ({first_fault(error)}); run `apply -o` again") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{_DAMAGED}; run `apply -o` again") from error
    return {
        name: Units(each.source, each.of, np.asarray(each.units, dtype=np.int64), each.basis)
        for name, each in rows.items()
    }
