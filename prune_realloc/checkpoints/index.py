"""Fingerprints of all of timm's networks: which of a thousand a state dict may be of, without building them.

`benchmarks/timm_index.py` writes the index; what it names is built and compared before it counts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from torch import Tensor

INDEX_FILE = Path(__file__).with_name("timm_index.json")
_VARIES = re.compile(r"(.*\.)?(head\w*|fc|classifier|last_linear)(\..*)?|.*(pos_embed|relative_position|attn_mask).*")
"""Tensors that differ with the number of classes and the input size."""
_DIGITS = 6
"""Of the digest of a name: few names of thousands share one, which a share of names does not feel."""


def fingerprints(state: Mapping[str, Tensor]) -> tuple[str, str]:
    """Of names and shapes, and of names alone without their numbers; classifier and positions aside."""
    fixed = sorted((name, *tensor.shape) for name, tensor in state.items() if not _VARIES.fullmatch(name))
    kinds = sorted({re.sub(r"\d+", "#", str(name)) for name, *_ in fixed})
    return _short(fixed), _short(kinds)


def names_of(state: Mapping[str, Tensor]) -> str:
    """A digest of each name without its numbers, one behind the other."""
    kinds = sorted({re.sub(r"\d+", "#", name) for name in state})
    return "".join(hashlib.sha256(kind.encode()).hexdigest()[:_DIGITS] for kind in kinds)


def likeness(state: Mapping[str, Tensor]) -> dict[str, float]:
    """One timm name of each of timm's modules -> the share of names, numbers aside, that it has in common."""
    have = _digests(names_of(state))
    wants = {name: _digests(digests) for name, digests in _index()["names"].items()}
    return {name: len(have & want) / max(len(have | want), 1) for name, want in wants.items()}


def indexed(state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """timm names whose tensors have these names and shapes, and those whose tensors have these names at least."""
    whole, kinds = fingerprints(state)
    found = [(name, prints) for name, prints in _index()["networks"].items() if kinds in prints]
    return [name for name, prints in found if whole in prints], [name for name, _ in found]


@cache
def _index() -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = json.loads(INDEX_FILE.read_text())
    return found


def _digests(text: str) -> set[str]:
    return {text[start : start + _DIGITS] for start in range(0, len(text), _DIGITS)}


def _short(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:10]
