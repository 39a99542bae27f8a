"""Small questions about a network: classes, mode, multiply-adds, identity."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from prune_realloc.core.errors import InputError
from prune_realloc.runtime.in_products import InProducts


def model_identity(net: nn.Module) -> dict[str, Any]:
    """Architecture and a checksum over names, shapes and values of all weights: equal for equal networks."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    cfg = getattr(net, "pretrained_cfg", None) or {}
    return {"architecture": cfg.get("architecture", type(net).__name__), "weights_sha256": digest.hexdigest()}


def module_kinds(net: nn.Module) -> str:
    """A checksum over what the modules are, by the names of their classes, and of PyTorch's own by what they say of
    themselves too: equal where a pass takes as long, as far as modules show it."""
    kinds = []
    for module in net.modules():
        kind = type(module)
        kinds.append([kind.__qualname__, module.extra_repr() if kind.__module__.startswith("torch.nn.") else ""])
    return hashlib.sha256(json.dumps(kinds).encode()).hexdigest()


def count_classes(model: nn.Module) -> int:
    """Classes that the network tells apart; 0 without a classifier. One logit tells two apart."""
    logits = int(getattr(model, "num_classes", 0) or 0)
    return 2 if logits == 1 else logits


def class_logits(out: Any) -> Tensor:
    """A logit for each class, shape (B, C), of a classifier's output.

    One logit z, shape (B, 1), is (0, z): the softmax of that is the sigmoid of z, and the cross-entropy the binary one.

    Raises:
        InputError: it is something else than one tensor (B, C).
    """
    if not isinstance(out, Tensor) or out.ndim != 2:
        what = f"of shape {tuple(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
        raise InputError(
            f"model: it says num_classes, and its output is {what}, not one tensor (B, num_classes) of logits; give a "
            "network around it that returns the logits, or set num_classes = 0 and give loss="
        )
    return F.pad(out, (1, 0)) if out.shape[1] == 1 else out


def measured_macs(model: nn.Module, images: Tensor) -> int:
    """Multiply-adds by torch's counter; older ones count attention only where it is made of matrix products."""
    with sdpa_kernel(SDPBackend.MATH), InProducts(), FlopCounterMode(display=False) as counter:
        model(images)
    return counter.get_total_flops() // 2


def is_layer(module: nn.Module) -> bool:
    """Can `module` be fitted: is it linear in all its input channels, and what it multiplies known?"""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 and type(module).forward is nn.Conv2d.forward  # not one that pads as it likes
    return isinstance(module, nn.Linear)


@contextmanager
def evaluation_mode(*models: nn.Module, device: torch.device | None = None) -> Iterator[None]:
    """Inside the block the models are in evaluation mode, on `device` if given; every module is put back."""
    modes = [(module, module.training) for net in models for module in net.modules()]
    homes = [(net, next(net.parameters()).device) for net in models]
    try:
        for net in models:
            net.eval().to(device)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for net, home in homes:
            net.to(home)
