"""Analysis: the scores of all sites with everything needed to read them later, on disk and back. No torch here."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from prune_realloc.cost import Cost, Term, Widths, component_costs, total_cost
from prune_realloc.errors import InputError

FORMAT_VERSION = 2
SCORES_FILE, META_FILE = "analysis.safetensors", "analysis.json"
_ARRAYS = ("scores", "damage")
_PARTIAL = ".partial"
"""How the name of a file ends that is still being written."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """What one run of a scorer says about one model."""

    scores: Mapping[str, np.ndarray]
    """Site name -> one float64 score per unit; larger = keep. In nats per image for gradient scorers."""
    damage: Mapping[str, np.ndarray]
    """Site name -> what is lost when only w units (of each head) are left, w = 0 .. width: in nats per image after
    rotation and refit for gradient scorers, else sums of scores."""
    widths: Widths
    groups: Mapping[str, int]
    """Site name -> in how many equal runs (heads) its units lie."""
    terms: tuple[Term, ...]
    """The cost model: params and MACs as a formula of the widths."""
    scorer: str
    unit: str
    """Of the scores: `nats` where sites can be compared, else the scorer's own."""
    samples: int
    seed: int
    model: Mapping[str, Any]
    """Architecture, arguments and a checksum of the weights, so that the model can be found again."""
    data: Mapping[str, Any] | None
    """Name, split, preprocessing and a checksum of the images; None for weight-only scorers."""
    stability: Mapping[str, float]
    """Axis -> rank correlation of the scores between two halves of the images."""
    loss: float | None = None
    """Mean calibration loss in nats per image."""
    top1: float | None = None
    """Share of calibration images that the model gets right; None without labels."""
    notes: tuple[str, ...] = ()
    """What the reader must know: skipped images, dead sites, an untrained network."""
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

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
        known = ("model", "ckpt", "pretrained", "ema", "img_size", "model_args", "architecture", "weights_sha256")
        source = {key: self.model[key] for key in known if self.model.get(key)}
        images = {"samples": self.samples or 1024, "seed": self.seed}
        if self.data is not None:
            kept = ("name", "split", "data_dir", "preprocess")
            images |= {key: self.data[key] for key in kept if self.data.get(key)}
            images["labels"] = self.data["labels"] == "given"
        return {"source": source, "data": images, "scorer": self.scorer}

    def save(self, folder: str | Path) -> None:
        """Write `analysis.safetensors` and `analysis.json`, each whole or not at all."""
        folder = Path(folder)
        make_folder(folder)
        meta = {"format_version": FORMAT_VERSION} | {
            field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name not in _ARRAYS
        }
        meta["terms"] = [dataclasses.asdict(term) for term in self.terms]
        arrays = {f"{kind}/{name}": np.ascontiguousarray(values, dtype=np.float64)
                  for kind in _ARRAYS for name, values in getattr(self, kind).items()}  # fmt: skip
        text = json.dumps(meta, indent=1, allow_nan=False) + "\n"
        write_files(folder, {SCORES_FILE: save(arrays), META_FILE: text.encode()})

    @classmethod
    def load(cls, folder: str | Path) -> Analysis:
        """Read what `save` wrote.

        Raises:
            InputError: a file is missing, damaged, or of another format version.
        """
        folder = Path(folder)
        try:
            meta = json.loads((folder / META_FILE).read_text())
            version = meta.pop("format_version", None)
            if version != FORMAT_VERSION:
                raise InputError(f"{folder}: format_version {version!r}, this program reads {FORMAT_VERSION}")
            arrays = load_file(folder / SCORES_FILE)
            meta["terms"] = tuple(Term(**(term | {"sites": tuple(term["sites"])})) for term in meta["terms"])
            meta["notes"] = tuple(meta["notes"])
            scores, damage = ({name: arrays[f"{kind}/{name}"] for name in meta["widths"]} for kind in _ARRAYS)
            return cls(scores=scores, damage=damage, **meta)
        except FileNotFoundError as error:
            missing = META_FILE if not (folder / META_FILE).exists() else SCORES_FILE
            raise InputError(f"{folder} has no {missing}; run `analyze -o {folder}`") from error
        except (
            json.JSONDecodeError,
            UnicodeDecodeError,
            SafetensorError,
            KeyError,
            TypeError,
            AttributeError,
        ) as error:
            raise InputError(f"{folder}: the analysis is damaged ({error}); run `analyze` again") from error


def make_folder(folder: Path) -> None:
    """Create an output folder.

    Raises:
        InputError: something that is no folder is in the way, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"output {str(folder)!r}: a file is in the way; choose another folder") from error
    except OSError as error:
        raise InputError(f"output {str(folder)!r} cannot be created: {error.strerror}") from error


def write_file(path: Path, content: bytes) -> None:
    """`write_files` for one file."""
    write_files(path.parent, {path.name: content})


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write all under temporary names, then rename all, so that nobody ever sees half a file or half a set.

    Raises:
        InputError: the folder is read-only or full.
    """
    partial: dict[str, Path] = {}
    try:
        for name, content in contents.items():
            handle, temporary = tempfile.mkstemp(dir=folder, prefix=f".{name}.", suffix=_PARTIAL)
            partial[name] = Path(temporary)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            partial[name].chmod(0o644)
        for name, written in partial.items():
            written.replace(folder / name)
    except OSError as error:
        raise InputError(f"output {str(folder / name)!r} cannot be written: {error.strerror}") from error
    finally:
        for written in partial.values():
            written.unlink(missing_ok=True)


def clear_half_written(folder: Path) -> None:
    """Remove what `write_files` left under its temporary names when it was killed, as large as the whole files."""
    for path in folder.glob(f".*{_PARTIAL}"):
        path.unlink(missing_ok=True)
