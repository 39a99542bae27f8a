"""A file -> its content: tensors, and plain values beside them. No pickle is ever executed."""

from __future__ import annotations

import argparse
import datetime
import pathlib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError

from prune_realloc.checkpoints.kinds import refuse_kind
from prune_realloc.core.errors import InputError, first_line


def file_content(path: Path) -> Mapping[str, Any]:
    """What a file of safetensors or of `torch.save` holds, as far as it is tensors and plain values.

    Raises:
        InputError: it is of another kind, empty or damaged, or reading it would execute code.
    """
    if path.stat().st_size == 0:
        raise InputError(f"ckpt {str(path)!r} is empty")
    refuse_kind(path)
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise InputError(f"ckpt {str(path)!r} is not a whole safetensors file ({error})") from error
    content = _unpickled(path)
    if not isinstance(content, Mapping):
        raise InputError(f"ckpt {str(path)!r} holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def _unpickled(path: Path) -> Any:
    # where the program itself already lets something in, leaving the context must not take that away
    known = torch.serialization.get_safe_globals()
    extra = [kind for kind in _harmless() if kind not in known]
    try:
        with torch.serialization.safe_globals(extra):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = _reason(str(error))
        raise InputError(f"ckpt {str(path)!r} is refused: {reason}; save its state_dict alone, as tensors") from error
    except Exception as error:  # whatever the unpickler stumbles over: the file is no checkpoint
        raise InputError(
            f"ckpt {str(path)!r} cannot be read, it is damaged or no checkpoint ({first_line(error)})"
        ) from error


def _harmless() -> list[Any]:
    """Types that hold values and run nothing: what training scripts keep beside the weights.

    A pair is what stands in for the function of that name.
    """
    types = [argparse.Namespace, np.dtype, np.ndarray, bool, int, float, str, list, tuple, dict]
    dates = [datetime.datetime, datetime.date, datetime.timedelta]
    dtypes = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
    stand_ins: list[Any] = [(_mapping, "collections.defaultdict")]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        stand_ins += [(_scalar, f"{module}.scalar"), (_empty_array, f"{module}._reconstruct")]
    for module in ("pathlib", "pathlib._local"):
        stand_ins += [(_path, f"{module}.{kind}Path") for kind in ("Posix", "Windows", "PurePosix", "PureWindows")]
    return [*types, *dates, *dtypes, *stand_ins]


def _scalar(dtype: np.dtype[Any], content: Any = b"") -> Any:
    """A number of numpy's, from its bytes, as a plain one."""
    if dtype.hasobject or not isinstance(content, bytes):
        raise pickle.UnpicklingError("a numpy scalar of Python objects")
    return np.frombuffer(content, dtype, 1)[0].item()


def _empty_array(*_: Any) -> np.ndarray:
    """What numpy fills in afterwards; its size comes with its content."""
    return np.empty(0)


def _mapping(*_: Any) -> dict[Any, Any]:
    """What its items are set in afterwards."""
    return {}


def _path(*parts: str) -> str:
    """A path as text; nothing is opened."""
    return str(pathlib.PurePosixPath(*map(str, parts)))


def _reason(message: str) -> str:
    """What torch's long message about a refused pickle comes down to."""
    if found := re.search(
        r"(?:[Uu]nsupported (?:global: )?GLOBAL|Unsupported class|WeightsUnpickler error:.*?GLOBAL) ([\w.]+)", message
    ):
        return f"reading it would execute a pickle that calls {found[1]}"
    if found := re.search(r"Unsupported operand (\d+)", message):
        return f"it is no checkpoint, or a pickle with an operation that is not let in ({found[1]})"
    lines = message.partition("WeightsUnpickler error:")[2].split("\n") + message.splitlines()
    return next((line.strip() for line in lines if line.strip()), "it is not a file of tensors")
