"""A file -> its content: tensors, and plain values beside them. No pickle is ever executed."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError

from prune_realloc.checkpoints.inert import HARMLESS, finished
from prune_realloc.checkpoints.kinds import refuse_kind
from prune_realloc.checkpoints.magic import is_safetensors
from prune_realloc.core.errors import InputError, first_line


def file_content(path: Path) -> Mapping[str, Any]:
    """What a file of safetensors or of `torch.save` holds, as far as it is tensors and plain values.

    Raises:
        InputError: it is of another kind, empty or damaged, or reading it would execute code.
    """
    if path.stat().st_size == 0:
        raise InputError(f"ckpt {str(path)!r} is empty")
    refuse_kind(path)
    if path.suffix == ".safetensors" or _starts_as_safetensors(path):
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise InputError(f"ckpt {str(path)!r} is not a whole safetensors file ({error})") from error
    content = _unpickled(path)
    if not isinstance(content, Mapping):
        raise InputError(f"ckpt {str(path)!r} holds a {type(content).__name__}, not a dictionary of tensors")
    return content


def _starts_as_safetensors(path: Path) -> bool:
    with path.open("rb") as file:
        return is_safetensors(file.read(9))


def _unpickled(path: Path) -> Any:
    # where the program itself already lets something in, leaving the context must not take that away
    known = torch.serialization.get_safe_globals()
    extra = [kind for kind in HARMLESS if kind not in known]
    try:
        with torch.serialization.safe_globals(extra):
            return finished(torch.load(path, map_location="cpu", weights_only=True))
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        reason = _reason(str(error))
        raise InputError(f"ckpt {str(path)!r} is refused: {reason}; save its state_dict alone, as tensors") from error
    except Exception as error:  # whatever the unpickler stumbles over: the file is no checkpoint
        raise InputError(
            f"ckpt {str(path)!r} cannot be read, it is damaged or no checkpoint ({first_line(error)})"
        ) from error


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
