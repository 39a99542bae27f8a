"""What builds a network that no family reads off its tensors: what the file states, if its tensors agree."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from prune_realloc.checkpoints.fitting import built, classes_of
from prune_realloc.checkpoints.found import Checkpoint
from prune_realloc.core.taken import Fact
from prune_realloc.families.inputs import input_shape


def fitting_hints(name: str, args: Mapping[str, Any], found: Checkpoint) -> dict[str, Any]:
    """What the file says in other words of arguments of timm's network `name`; what does not fit is noted in `found`.

    A hint fits if timm builds the network with it, and no more of its tensors differ from those of the file.

    Args:
        args: other arguments, which count before.
    """
    said = {hint: value for hint, value in _said(found).items() if hint not in args}
    plain = built([name], args, found.state).get(name) if said else None
    if plain is None:
        return {}
    fitting: dict[str, Any] = {}
    for hint, value in said.items():
        net = built([name], {**args, **fitting, hint: value}, found.state).get(name)
        if net is not None and _misfits(net, found.state) <= _misfits(plain, found.state) and _has(net, hint, value):
            fitting[hint], plain = value, net
    unfit = [hint for hint in said.keys() - fitting.keys() if not _has(plain, hint, said[hint], unknown=False)]
    if unfit:
        told = [f"{hint} {said[hint]} ({found.origins[hint]})" for hint in sorted(unfit)]
        found.taken["stated, not taken"] = Fact(told, f"timm's {name} is not built so, or not with these tensors")
    for hint in said.keys() - fitting.keys():
        found.origins.pop(hint, None)
    return fitting


def _said(found: Checkpoint) -> dict[str, Any]:
    """The hints, and the input size where it is a square that nothing else contradicts."""
    if "img_size" in found.hints or len({*found.squares.values()}) != 1:
        return found.hints
    key, side = next(iter(found.squares.items()))
    found.origins.setdefault("img_size", f"{key} in the file")
    return found.hints | {"img_size": (side, side)}


def _has(net: Any, hint: str, value: Any, unknown: bool = True) -> bool:
    """Whether the network is of this input size, which some swallow; of other hints it is not known."""
    return input_shape(net)[1:] == value if hint == "img_size" else unknown


def _misfits(net: Any, state: Mapping[str, Tensor]) -> int:
    """How many names and shapes are in one of both alone."""
    have, want = ({key: tensor.shape for key, tensor in each.items()} for each in (state, net.state_dict()))
    return len(have.items() ^ want.items())


def sizes_of(net: Any, state: Mapping[str, Tensor]) -> dict[str, int]:
    """Arguments that the first and the last layer tell, where they are not those of the network."""
    found = {"num_classes": classes_of(net, state), "in_chans": _channels_of(net, state)}
    return {name: size for name, size in found.items() if size is not None}


def _channels_of(net: Any, state: Mapping[str, Tensor]) -> int | None:
    """Channels of the images, where the first layer reads them as they are, and not as many as the network's."""
    first = f"{net.pretrained_cfg.get('first_conv')}.weight"
    own, have = net.state_dict().get(first), state.get(first)
    if own is None or have is None or have.ndim != own.ndim or own.shape[1] != input_shape(net)[0]:
        return None
    return have.shape[1] if have.shape[1] != own.shape[1] else None
