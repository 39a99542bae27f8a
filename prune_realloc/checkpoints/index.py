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

from torch import Tensor

INDEX_FILE = Path(__file__).with_name("timm_index.json")
_VARIES = re.compile(r"(.*\.)?(head\w*|fc|classifier|last_linear)(\..*)?|.*(pos_embed|relative_position|attn_mask).*")
"""Tensors that differ with the number of classes and the input size."""


def fingerprints(state: Mapping[str, Tensor]) -> tuple[str, str]:
    """Of names and shapes, and of names alone without their numbers; classifier and positions aside."""
    fixed = sorted((name, *tensor.shape) for name, tensor in state.items() if not _VARIES.fullmatch(name))
    kinds = sorted({re.sub(r"\d+", "#", str(name)) for name, *_ in fixed})
    return _short(fixed), _short(kinds)


def indexed(state: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """timm names whose tensors have these names and shapes, and those whose tensors have these names at least."""
    whole, kinds = fingerprints(state)
    found = [(name, prints) for name, prints in _index().items() if kinds in prints]
    return [name for name, prints in found if whole in prints], [name for name, _ in found]


@cache
def _index() -> Mapping[str, list[str]]:
    found: Mapping[str, list[str]] = json.loads(INDEX_FILE.read_text())["networks"]
    return found


def _short(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:10]
