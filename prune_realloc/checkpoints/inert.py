"""What stands in a file beside tensors and may be let in: stand-ins of our own that hold values and run nothing.

numpy's own functions are not called with what a file says: its types can be told to read memory as objects.
"""

from __future__ import annotations

import argparse
import datetime
import math
import pathlib
import pickle
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prune_realloc.core.errors import InputError

_KIND = re.compile(r"[biufc]\d{1,2}|[SU]\d{1,6}|[?]")
_DEPTH = 40
"""Lists and dictionaries inside one another that are gone into; what is deeper stays as it is."""


class Dtype:
    """numpy's type of a number or a text, as its name and byte order."""

    def __init__(self, name: Any = "", *_: Any) -> None:
        if not isinstance(name, str) or not _KIND.fullmatch(name):
            raise pickle.UnpicklingError(f"a numpy type {name!r}, which is no number and no text")
        self.name, self.order = name, "="

    def __setstate__(self, state: Any) -> None:
        # version, byte order, and of types that are made of others: the others, their names and places
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("a numpy type that is made of others")
        self.order = state[1] if state[1] in ("<", ">", "=", "|") else "="

    def real(self) -> np.dtype[Any]:
        return np.dtype(self.order.replace("|", "=") + self.name)


class Array:
    """numpy's array, as its bytes."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: Any) -> None:
        self.state = state if isinstance(state, tuple) else ()

    def real(self) -> np.ndarray:
        """The array; every value of it is in the file.

        Raises:
            UnpicklingError: its content is of another kind or size than its shape.
        """
        if len(self.state) != 5 or not isinstance(self.state[2], Dtype) or not isinstance(self.state[4], bytes):
            raise pickle.UnpicklingError("a numpy array of Python objects")
        _, shape, kind, fortran, content = self.state
        if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
            raise pickle.UnpicklingError("a numpy array without a shape")
        if math.prod(shape) * kind.real().itemsize != len(content):
            raise pickle.UnpicklingError("a numpy array whose content is not of its shape")
        flat = np.frombuffer(content, kind.real()) if content else np.empty(0, kind.real())
        return flat.reshape(shape, order="F" if fortran else "C")


def _scalar(kind: Any, content: Any = b"") -> Any:
    """A number or a text of numpy's, as a plain one."""
    if not isinstance(kind, Dtype) or not isinstance(content, bytes) or len(content) != kind.real().itemsize:
        raise pickle.UnpicklingError("a numpy scalar of Python objects")
    return np.frombuffer(content, kind.real())[0].item() if content else ""


def _path(*parts: str) -> str:
    """A path as text; nothing is opened."""
    return str(pathlib.PurePosixPath(*map(str, parts)))


def _mapping(*_: Any) -> dict[Any, Any]:
    """What its items are set in afterwards."""
    return {}


def _named_only(*_: Any) -> Any:
    """For what a file may name and not call."""
    raise pickle.UnpicklingError("a call of one of Python's types")


HARMLESS: tuple[Any, ...] = (
    argparse.Namespace,
    datetime.datetime,
    datetime.date,
    datetime.timedelta,
    (Dtype, "numpy.dtype"),
    (_named_only, "numpy.ndarray"),
    (_mapping, "collections.defaultdict"),
    *((_scalar, f"{module}.multiarray.scalar") for module in ("numpy.core", "numpy._core")),
    *((Array, f"{module}.multiarray._reconstruct") for module in ("numpy.core", "numpy._core")),
    *(
        (_path, f"{module}.{kind}Path")
        for module in ("pathlib", "pathlib._local")
        for kind in ("Posix", "Windows", "PurePosix", "PureWindows")
    ),
    *((_named_only, f"builtins.{kind}") for kind in ("bool", "int", "float", "str", "list", "tuple", "dict")),
)
"""Types that a pickle may name, as torch takes them; a pair is what stands in for the one of that name."""


def finished(content: Any) -> Any:
    """A file's content with values in place of the stand-ins.

    Raises:
        UnpicklingError: a stand-in holds no value.
        InputError: a tensor says that it is larger than what the file holds of it.
    """
    return _finished(content, _DEPTH, {})


def _finished(value: Any, depth: int, seen: dict[int, Any]) -> Any:
    if isinstance(value, Array):
        return value.real()
    if isinstance(value, Dtype):
        return value.name
    if isinstance(value, Tensor):
        _require_whole(value)
        return value
    if isinstance(value, argparse.Namespace):
        vars(value).update(_finished(dict(vars(value)), depth, seen))
        return value
    if depth == 0 or not isinstance(value, Mapping | list | tuple):
        return value
    if id(value) not in seen:
        seen[id(value)] = value  # where it holds itself, it stays as it is
        if isinstance(value, Mapping):
            seen[id(value)] = {key: _finished(one, depth - 1, seen) for key, one in value.items()}
        else:
            seen[id(value)] = type(value)(_finished(one, depth - 1, seen) for one in value)
    return seen[id(value)]


def _require_whole(tensor: Tensor) -> None:
    """A view that repeats its storage can be as large as one likes; nobody saves a network so."""
    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        return  # refused later, by name
    held = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > held:
        raise InputError(
            f"a tensor of shape {tuple(tensor.shape)} repeats the {held} bytes that the file holds of it; save it whole"
        )
