"""The one file that a run goes on from: weights, averaged weights, optimizer, place, and which run it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from prune_realloc.core.analysis import META_FILE
from prune_realloc.core.errors import InputError
from prune_realloc.core.files import write_file
from prune_realloc.core.names import RECIPE_FILE, STATE_FILE
from prune_realloc.training.setup import Setup
from prune_realloc.training.state import Identity, RunState

FREE = ("workers", "compile")
"""Settings that may change from one start of a run to the next: they change its speed only."""
_OF_OTHER_VERBS = (META_FILE, "config.json", RECIPE_FILE)
"""Files that tell that a folder was written by another verb."""


def write_state(setup: Setup, state: RunState, identity: Identity) -> bool:
    """Write everything that the run goes on from, whole or not at all.

    Returns:
        False where weights are not finite; then nothing is written.
    """
    tensors = {f"model/{k}": v for k, v in setup.net.state_dict().items()}
    if setup.ema is not None:
        tensors |= {f"ema/{k}": v for k, v in setup.ema.module.state_dict().items()}
    if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
        return False
    scaler = setup.accelerator.scaler
    facts = {
        "identity": identity,
        **vars(state),
        "optimizer": pack_state(setup.optimizer.state_dict(), "optimizer", tensors),
        "scaler": None if scaler is None else scaler.state_dict(),
    }
    held = {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
    write_file(setup.folder / STATE_FILE, safetensors.torch.save(held, metadata={"run": json.dumps(facts)}))
    return True


def read_state(setup: Setup, identity: Identity) -> RunState | None:
    """Put weights and optimizer where the folder's state has them; None where there is none, or nothing was done in it.

    Raises:
        InputError: the folder holds the state of another run, a damaged one, or what another verb wrote.
    """
    path = setup.folder / STATE_FILE
    if not path.exists():
        other = next((name for name in _OF_OTHER_VERBS if (setup.folder / name).exists()), None)
        if other is not None:
            raise InputError(f"output {str(setup.folder)!r} holds {other}, of another verb; choose another folder")
        return None
    facts, tensors = _content(path)
    if (facts["epoch"], facts["step"]) == (0, 0):
        return None
    for field, value in identity.items():
        if facts["identity"].get(field) != value:
            raise InputError(
                f"output {str(setup.folder)!r} holds another run: {_first_difference(field, facts, value)}; "
                "choose another folder, or remove it"
            )
    _restore(setup, facts, tensors)
    state = RunState(**{name: facts[name] for name in vars(RunState()) if name in facts})  # older ones have fewer
    state.best = (state.best[0], state.best[1])  # JSON has lists only
    state.before = state.before and (state.before[0], state.before[1])
    return state


def _content(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    try:
        with safe_open(path, "pt") as file:
            facts = json.loads(file.metadata()["run"])
            return facts, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it to start again") from error


def _restore(setup: Setup, facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    def part(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}

    setup.net.load_state_dict(part("model"))
    if setup.ema is not None:
        setup.ema.module.load_state_dict(part("ema"))
    setup.optimizer.load_state_dict(unpack_state(facts["optimizer"], tensors))
    _lay_out_(setup.optimizer)
    if setup.accelerator.scaler is not None:
        setup.accelerator.scaler.load_state_dict(facts["scaler"])


def _lay_out_(optimizer: torch.optim.Optimizer) -> None:
    """State tensors in the memory layout of their parameters, as they were made.

    In another layout a norm (LAMB's) is summed in another order, so the run would not go on to the bit.
    """
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[key] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def pack_state(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """An optimizer's state as plain JSON; its tensors go to `tensors`, under names that say where they were."""
    if isinstance(value, Tensor):
        tensors[path] = value
        return {"tensor": path}
    if isinstance(value, Mapping):
        return {"items": [[key, pack_state(item, f"{path}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return {"list": [pack_state(item, f"{path}/{i}", tensors) for i, item in enumerate(value)]}
    if value is None or isinstance(value, str | int | float):
        return value
    raise InputError(f"opt: its state holds a {type(value).__name__}, which is not saved; choose another")


def unpack_state(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """What `pack_state` packed; tuples come back as lists."""
    if not isinstance(value, dict):
        return value
    if "tensor" in value:
        return tensors[value["tensor"]]
    if "list" in value:
        return [unpack_state(item, tensors) for item in value["list"]]
    return {key: unpack_state(item, tensors) for key, item in value["items"]}


def _first_difference(field: str, facts: Mapping[str, Any], value: Any) -> str:
    """In words, what of one field of the identity is another `there`, in the file, than `now`."""
    if field in ("network", "taught"):
        what = "network" if field == "network" else "teacher"
        return f"the {what} that is given is not the one that the run began with"
    have = facts["identity"].get(field)
    if isinstance(value, dict) and isinstance(have, dict):
        key = next(key for key in value | have if value.get(key) != have.get(key))
        return f"{field}.{key} is {have.get(key)!r} there, {value.get(key)!r} now"
    return f"{field} is {have!r} there, {value!r} now"
