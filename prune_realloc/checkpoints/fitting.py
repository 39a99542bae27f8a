"""Whether a checkpoint's tensors fit timm's networks, and which is the nearest where none does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log
from typing import Any

import timm
import torch
from torch import Tensor, nn

from prune_realloc.families.base import Family

_SHOWN = 3


def built(names: Iterable[str], args: Mapping[str, Any], state: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """timm's networks of these names, without memory; those that the arguments do not build are left out.

    Args:
        state: a checkpoint, whose number of classes they are to have.
    """
    found = {}
    for name in names:
        net = _empty(name, args)
        if net is not None and state is not None and (classes := classes_of(net, state)) is not None:
            net = _empty(name, {"num_classes": classes} | dict(args))
        if net is not None:
            found[name] = net
    return found


def _empty(name: str, args: Mapping[str, Any]) -> Any:
    """The network without memory; None where it cannot be built."""
    drawn: dict[str, Any] = {"weight_init": "skip"}  # where a network knows it: drawing is most of the time
    for more in (drawn, {}):
        try:
            with torch.device("meta"):
                return timm.create_model(name, pretrained=False, **more, **args)
        except Exception:  # timm's constructors raise many kinds
            continue
    return None


def classes_of(net: Any, state: Mapping[str, Tensor]) -> int | None:
    """How many classes a checkpoint tells apart, where that is not the number of the network; 0: it has no head."""
    classifier = net.pretrained_cfg.get("classifier")
    names = [classifier] if isinstance(classifier, str) else classifier or []
    weights = [state[f"{name}.weight"] for name in names if f"{name}.weight" in state and state[f"{name}.weight"].ndim]
    classes = len(weights[0]) if weights else 0
    return None if not names or classes == net.num_classes else classes


def fits(family: Family | None, net: Any, state: Mapping[str, Tensor]) -> bool:
    """Whether the checkpoint's tensors are the network's: the same names, and the same shapes.

    Args:
        family: knows the namings in which such networks are published.
    """
    try:
        renamed = dict(state) if family is None else family.to_timm_keys(dict(state), net)
    except RuntimeError:
        return False  # its token layout is another, so the position embedding cannot be read
    return _shapes(net.state_dict()) == _shapes(renamed)


def nearest(state: Mapping[str, Tensor], nets: Mapping[str, nn.Module]) -> str:
    """In words: the nearest of some networks, and the tensors that differ."""
    have = _shapes(state)
    first, shape = next(iter(have.items()))
    text = f"no timm model has its shape ({first} {tuple(shape)}, ...)"
    if not nets:
        return f"{text}; name the nearest with --model and its differences with --model-arg, such as num_heads=6"
    # those named so are small networks for timm's own tests
    real = {name: net for name, net in nets.items() if not name.startswith("test_")} or nets
    wants = {name: _shapes(net.state_dict()) for name, net in real.items()}
    size = sum(shape.numel() for shape in have.values())

    def nearness(name: str) -> tuple[int, float]:
        """Equal tensors, and where as many are, the likeness of the sizes."""
        other = sum(shape.numel() for shape in wants[name].values())
        return len(have.items() & wants[name].items()), -abs(log((1 + size) / (1 + other)))

    best = max(wants, key=nearness)
    want = wants[best]
    common = sorted(have.keys() & want.keys())
    wrong = [f"{key} {tuple(have[key])} for {tuple(want[key])}" for key in common if have[key] != want[key]]
    parts = [
        f"{what} {', '.join(names[:_SHOWN])} ({len(names)} in all)"
        for what, names in (
            ("other shapes:", wrong),
            ("without", sorted(want.keys() - have.keys())),
            ("with unknown", sorted(have.keys() - want.keys())),
        )
        if names
    ]
    if not parts:
        return f"with these arguments {best} has its shapes; name it with --model {best}"
    return (
        f"{text}; the nearest is {best}: {'; '.join(parts)}; name it with --model and its differences with "
        "--model-arg, such as num_heads=6"
    )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}
