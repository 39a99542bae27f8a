"""Analysis: the scores of all sites with everything needed to read them later, on disk and back. No torch here."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from prune_realloc.core.cost import Cost, Term, component_costs, total_cost
from prune_realloc.core.errors import InputError, first_fault
from prune_realloc.core.files import CHECKSUMS, checksums, make_folder, write_files
from prune_realloc.core.memory import Memory
from prune_realloc.core.taken import Fact
from prune_realloc.core.typed import AtLeastOne, holding

FORMAT_VERSION = 2
SCORES_FILE, META_FILE = "analysis.safetensors", "analysis.json"
_ARRAYS = ("scores", "damage")
"""The fields that are arrays for each site: they lie in the first file, all others in the second."""
_DAMAGE = (ValueError, OSError, RecursionError, SafetensorError, KeyError, TypeError, AttributeError)
"""What reading raises where the content is not what `save` writes."""


@dataclass(frozen=True, kw_only=True)
class _ModelFacts:
    """What is read of `Analysis.model`."""

    architecture: str
    weights_sha256: str | None = None
    model_args: Mapping[str, Any] | None = None
    num_classes: int | None = None
    input_size: tuple[AtLeastOne, AtLeastOne, AtLeastOne] | None = None


@dataclass(frozen=True, kw_only=True)
class _DataFacts:
    """What is read of `Analysis.data`."""

    name: str | None
    labels: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """What one run of a scorer says about one model."""

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True)  # arrays

    scores: Mapping[str, np.ndarray]
    """Site name -> one float64 score per unit; larger = keep. In nats per image for gradient scorers."""
    damage: Mapping[str, np.ndarray]
    """Site name -> what is lost when only w units (of each head) are left, w = 0 .. width: in nats per image after
    rotation and refit for gradient scorers, else sums of scores."""
    widths: Mapping[str, AtLeastOne]
    groups: Mapping[str, AtLeastOne]
    """Site name -> in how many equal runs (heads) its units lie."""
    multiples: Mapping[str, AtLeastOne] = dataclasses.field(default_factory=dict)
    """Site name -> what its width must be a multiple of; only where that is more than 1."""
    terms: tuple[Term, ...]
    """The cost model: params and MACs as a formula of the widths."""
    memory: Memory | None = None
    """The most memory that a pass holds, as a formula of the widths; None where it is not known, as in older files."""
    scorer: str
    unit: str
    """What the scores are in: `nats` where those of two sites can be compared, else the scorer's own measure."""
    samples: int
    seed: int
    model: Annotated[Mapping[str, Any], holding(_ModelFacts)]
    """Architecture, arguments and a checksum of the weights, so that the model can be found again."""
    data: Annotated[Mapping[str, Any], holding(_DataFacts)] | None
    """Name, split, preprocessing and a checksum of the images; None for weight-only scorers."""
    stability: Mapping[str, float]
    """Axis -> rank correlation of the scores between two halves of the images."""
    loss: float | None = None
    """Mean calibration loss in nats per image; where the prediction stands in for labels, its entropy."""
    top1: float | None = None
    """Share of calibration images that the model gets right; None without labels."""
    notes: tuple[str, ...] = ()
    """What the reader must know: skipped images, dead sites, an untrained network."""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    taken: Mapping[str, Annotated[Mapping[str, Any], holding(Fact)]] = dataclasses.field(default_factory=dict)
    """What the run went by, and what says so, as `core.taken.plain_taken` has it; older files say nothing."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Analysis):
            return NotImplemented
        plain = [f.name for f in dataclasses.fields(self) if f.name not in _ARRAYS]
        pairs = [(getattr(self, name), getattr(other, name)) for name in _ARRAYS]
        return all(getattr(self, name) == getattr(other, name) for name in plain) and all(
            a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a) for a, b in pairs
        )

    def cost(self) -> Cost:
        return total_cost(self.terms, self.widths)

    def component_costs(self) -> dict[str, Cost]:
        return component_costs(self.terms, self.widths)

    def as_recipe(self) -> dict[str, Any]:
        """What a recipe says of the network, the images and the scorer, so that `apply` finds them again."""
        known = ("model", "ckpt", "pretrained", "img_size", "model_args", "architecture", "weights_sha256")
        source = {key: self.model[key] for key in known if self.model.get(key)}
        source |= {
            key: self.model[key] for key in ("ema", "input_size", "num_classes") if self.model.get(key) is not None
        }
        images = {"samples": self.samples or 1024, "seed": self.seed}
        if self.data is not None:
            kept = ("name", "split", "data_dir", "class_map", "class_order", "preprocess")
            images |= {key: self.data[key] for key in kept if self.data.get(key)}
            images["labels"] = self.data["labels"] == "given"
        return {"source": source, "data": images, "scorer": self.scorer}

    def save(self, folder: str | Path, more: Mapping[str, bytes] | None = None) -> None:
        """Write `analysis.safetensors` and `analysis.json` as one set; the second names the checksum of the first.

        Args:
            more: files that belong to the same set, name -> content.
        """
        folder = Path(folder)
        make_folder(folder)
        meta = {"format_version": FORMAT_VERSION} | {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in _ARRAYS
        }
        for name in ("multiples", "taken", "memory"):
            if not getattr(self, name):  # as files without it have always been
                del meta[name]
        if self.memory is not None:
            meta["memory"] = dataclasses.asdict(self.memory)
        meta["terms"] = [dataclasses.asdict(term) for term in self.terms]
        arrays = {
            f"{kind}/{name}": np.ascontiguousarray(values, dtype=np.float64)
            for kind in _ARRAYS
            for name, values in getattr(self, kind).items()
        }
        scores = save(arrays)
        meta[CHECKSUMS] = checksums({SCORES_FILE: scores})
        text = json.dumps(meta, indent=1, allow_nan=False) + "\n"
        write_files(folder, {**(more or {}), SCORES_FILE: scores, META_FILE: text.encode()})

    @classmethod
    def load(cls, folder: str | Path) -> Analysis:
        """Read what `save` wrote.

        Raises:
            InputError: a file is missing, damaged, of another format version, or of another run than the other.
        """
        folder = Path(folder)
        missing = [name for name in (META_FILE, SCORES_FILE) if not (folder / name).exists()]
        if missing:
            why = f" beside {SCORES_FILE}, writing it was interrupted" if missing == [META_FILE] else ""
            raise InputError(f"{folder} has no {missing[0]}{why}; run `analyze -o {folder}`")
        try:
            meta = json.loads((folder / META_FILE).read_text())
            version = meta.pop("format_version", None)
            if version != FORMAT_VERSION:
                raise InputError(f"{folder}: format_version {version!r}, this program reads {FORMAT_VERSION}")
            content = (folder / SCORES_FILE).read_bytes()
            arrays = load(content)
            named = meta.pop(CHECKSUMS, None)  # older files name none
            if named is not None and named != checksums({SCORES_FILE: content}):
                raise InputError(f"{folder}: scores and facts are of two runs; run `analyze` again")
            scores, damage = ({name: arrays[f"{kind}/{name}"] for name in meta["widths"]} for kind in _ARRAYS)
            found = TypeAdapter(cls).validate_python({**meta, "scores": scores, "damage": damage})
            found._check_sites()
            return found
        except InputError:
            raise
        except _DAMAGE as error:
            what = first_fault(error) if isinstance(error, ValidationError) else str(error)
            raise InputError(f"{folder}: the analysis is damaged ({what}); run `analyze` again") from error

    def _check_sites(self) -> None:
        """Raises ValueError where the fields are not of the same sites and widths."""
        if self.groups.keys() != self.widths.keys():
            raise ValueError("groups: of other sites than widths")
        for number, term in enumerate(self.terms):
            if missing := [site for site in term.sites if site not in self.widths]:
                raise ValueError(f"terms.{number}.sites: widths has no {missing[0]}")
        if self.memory is not None and (missing := sorted(self.memory.sites - self.widths.keys())):
            raise ValueError(f"memory.moments: widths has no {missing[0]}")
        for name, width in self.widths.items():
            units = width * self.groups[name]
            if self.scores[name].shape != (units,) or self.damage[name].shape != (width + 1,):
                raise ValueError(f"widths.{name}: the scores are of another width than {width}")
