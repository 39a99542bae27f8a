"""Damage to what files mean: JSON and YAML values, tensors and the mappings that hold them, pickles that call code."""

import argparse
import builtins
import copy
import functools
import importlib
import json
import os
import pickle
import shutil
import subprocess
from collections import OrderedDict
from collections.abc import Callable, MutableMapping
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

ODD_TEXTS = (
    *("", " ", "\x00", "\x1b[31mred\x1b[0m", "two\nlines", "ü" * 300, "\u202eback", "\ud83d", "{x}", "[red]x[/red]"),
    *("../../etc/passwd", "/dev/zero", "file:///etc/passwd", "https://127.0.0.1:9/x.pth", "hf-hub:no/such", "~root"),
    *(
        "local-dir:/",
        "vit_giant_patch14_224",
        "no_such_model",
        "os.system",
        "builtins.eval",
        "nan",
        "1e999",
        "x" * 100_000,
    ),
)
ODD_NUMBERS = (0, 1, -1, 2**31, -(2**63), 2**64, 10**400, 1e308, -0.0, 0.5, float("nan"), float("inf"), 7_000_000)
ODD_VALUES = (*ODD_TEXTS, *ODD_NUMBERS, None, True, False, [], {}, [[]], [None], {"": {}}, {"a": [1, {"b": None}]})


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def tree_changed(tree: Any, rng: Random) -> Any:
    """The same values with one of them replaced, removed, renamed, doubled or moved."""
    tree = copy.deepcopy(tree)
    holders: list[Any] = []
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict | list) and part:
            holders.append(part)
            waiting += part.values() if isinstance(part, dict) else part
    if not holders:
        return rng.choice(ODD_VALUES)
    holder = rng.choice(holders)
    key = rng.choice([*holder]) if isinstance(holder, dict) else rng.randrange(len(holder))
    match rng.randrange(8):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[rng.choice(ODD_TEXTS)] = holder.pop(key)
        case 2 if isinstance(holder, dict):
            holder[f"{key}{rng.choice(('s', '_', ' ', '.x'))}"] = copy.deepcopy(holder[key])
        case 3:
            holder[key] = {str(key): holder[key]} if rng.random() < 0.5 else [holder[key]] * 2
        case 4:
            holder[key] = deep(rng.choice((3, 400)))
        case _:
            holder[key] = rng.choice(ODD_VALUES)
    return tree


def json_text(tree: Any, rng: Random) -> bytes:
    """The values as JSON, now and then as a text that is none, or hardly."""
    text = json.dumps(tree)
    match rng.randrange(12):
        case 0:
            return b"\xef\xbb\xbf" + text.encode()
        case 1:
            return text.encode("utf-16")
        case 2:
            return text.encode()[:-1] + b"\xff"
        case 3:
            return (text[:-1] + "," + text[1:]).encode()  # every key twice
        case 4:
            return b"[" * rng.choice((900, 200_000))
        case 5:
            return text.replace("3", "3" * 5000, 1).encode()
    return text.encode()


def yaml_text(tree: Any, rng: Random, marker: Path) -> bytes:
    """The values as YAML, now and then with what YAML has beyond values: code, aliases, other types."""
    try:
        text = yaml.safe_dump(tree, allow_unicode=True)
    except RecursionError:
        text = json.dumps(tree) + "\n"
    line = rng.choice(
        (
            f'x: !!python/object/apply:os.system ["touch {marker}"]\n',
            f'x: !!python/object/new:os.mkdir ["{marker}"]\n',
            "a: &a [*a]\n",
            "a: &a {b: *a}\n<<: *a\n",
            "a: &a [1,1,1,1,1,1,1,1]\n"
            + "".join(
                f"{b}: &{b} [{','.join(f'*{a}' for _ in range(9))}]\n"
                for a, b in zip("abcdefgh", "bcdefghi", strict=True)
            ),
            "data: {samples: 2024-01-01}\n",
            "? [a, b]\n: 1\n",
            "? {a: 1}\n: 1\n",
            "seed: !!binary aGVsbG8=\n",
            "seed: 0o17\nbudget: 1_000\n",
            "\t- x\n",
            "--- 1\n--- 2\n",
            "%YAML 9.9\n---\n",
            "scorer: taylor\nscorer: fisher\n",
            "rules: " + "[" * 5000 + "\n",
            "x: \x07\n",
        )
    )
    return ((text + line) if rng.random() < 0.4 else text).encode(errors="surrogatepass")


def huge(tensor: Tensor) -> Tensor:
    """A few bytes that say that they are terabytes."""
    return torch.zeros(1).expand(*tensor.shape[:-1], 2**40) if tensor.ndim else torch.zeros(1).expand(2**40)


TENSORS: dict[str, Callable[[Tensor, Random], Any]] = {
    **{
        f"as {kind}": functools.partial(lambda kind, tensor, rng: tensor.to(getattr(torch, kind)), kind)
        for kind in ("float16", "bfloat16", "float64", "int64", "uint8", "bool", "complex64", "float8_e4m3fn")
    },
    "transposed": lambda tensor, rng: tensor.flatten().reshape(tensor.shape[::-1]),
    "not contiguous": lambda tensor, rng: tensor.T if tensor.ndim == 2 else tensor,
    "emptied": lambda tensor, rng: tensor[:0] if tensor.ndim else tensor,
    "one number": lambda tensor, rng: tensor.flatten()[0],
    "longer": lambda tensor, rng: tensor.repeat(3, *[1] * (tensor.ndim - 1)) if tensor.ndim else tensor,
    "one axis more": lambda tensor, rng: tensor[None],
    "NaN": lambda tensor, rng: torch.full_like(tensor, float("nan")),
    "infinite": lambda tensor, rng: tensor * float("inf"),
    "very large": lambda tensor, rng: tensor * 1e30,
    "all zero": lambda tensor, rng: torch.zeros_like(tensor),
    "huge": lambda tensor, rng: huge(tensor),
    "without storage": lambda tensor, rng: tensor.to("meta"),
    "sparse": lambda tensor, rng: tensor.to_sparse(),
    "quantized": lambda tensor, rng: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
    "a parameter": lambda tensor, rng: torch.nn.Parameter(tensor),
    "an array": lambda tensor, rng: tensor.float().numpy(),
    "a numpy number": lambda tensor, rng: np.float64(0.5),
    "a path": lambda tensor, rng: Path("weights"),
    "a list": lambda tensor, rng: tensor.tolist(),
    "something odd": lambda tensor, rng: rng.choice(ODD_VALUES),
}
ODD_KEYS = (
    "",
    "\x1b[31m\n",
    "ü" * 200,
    0,
    None,
    ("a", 1),
    b"x",
    True,
    "x" * 50_000,
    "head.weight",
    "args",
    "state_dict",
    "\ud83d",
)


def _renamed(state: MutableMapping, rng: Random) -> None:
    key = rng.choice([*state])
    state[rng.choice((*ODD_KEYS, f"{key}x", str(key)[1:]))] = state.pop(key)


def _removed(state: MutableMapping, rng: Random) -> None:
    for key in rng.sample([*state], min(len(state), rng.choice((1, 1, 5, 10**6)))):
        del state[key]


def _doubled(state: MutableMapping, rng: Random) -> None:
    key = rng.choice([*state])
    state[f"{rng.choice(('ema.', 'module.', 'teacher.', '_'))}{key}"] = state[key]


def _prefixed(state: MutableMapping, rng: Random) -> None:
    prefix = rng.choice(("module.", "_orig_mod.", "model.", "backbone.", "module.model.net.", "\x1b[31m.", ".", "ü."))
    moved = [*state] if rng.random() < 0.7 else rng.sample([*state], len(state) // 2)
    for key in moved:
        state[f"{prefix}{key}"] = state.pop(key)


def _deeper(state: MutableMapping, rng: Random) -> None:
    inner = dict(state)
    state.clear()
    for _ in range(rng.choice((1, 1, 2, 300))):
        inner = {rng.choice(("state_dict", "model", "net", "weights", "x", "teacher")): inner}
    state.update(inner)


def _itself(state: MutableMapping, rng: Random) -> None:
    state[rng.choice(("state_dict", "model", "self"))] = state


def _more(state: MutableMapping, rng: Random) -> None:
    state[rng.choice(ODD_KEYS)] = rng.choice((*ODD_VALUES, torch.zeros(3), deep(300)))


def _options(state: MutableMapping, rng: Random) -> None:
    field = rng.choice(("model", "model_kwargs", "mean", "img_size", "crop_pct", "num_classes", "interpolation"))
    values = {
        field: rng.choice((*ODD_VALUES, {"checkpoint_path": "x"}, {"embed_dim": 10**9}, {"depth": 10**7}, [1, 2, 3]))
    }
    if rng.random() < 0.5:
        state["args"] = rng.choice((argparse.Namespace(**values), values))
    else:
        state[rng.choice(("hyper_parameters", "config", "arch", "model_args", "cfg"))] = rng.choice(
            (values, values[field])
        )


MAPPINGS: dict[str, Callable[[MutableMapping, Random], None]] = {
    "key renamed": _renamed,
    "keys removed": _removed,
    "key doubled": _doubled,
    "prefix": _prefixed,
    "deeper": _deeper,
    "holds itself": _itself,
    "something more": _more,
    "odd options": _options,
}


class Call:
    """A pickle of it calls a function; the function may be one that other calls lead to."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> Any:
        return self.function, self.arguments

    def __call__(self) -> None:
        """Lets pickle take it for a function."""


def calls(marker: Path, evil: Path) -> dict[str, Any]:
    """Pickles that make `marker` where they are executed; `evil` is a file that does when it is loaded as a pickle."""
    write = f"open({str(marker)!r}, 'w').close()"
    return {
        "os.system": Call(os.system, f"touch '{marker}'"),
        "os.mkdir": Call(os.mkdir, str(marker)),
        "eval": Call(builtins.eval, write),
        "exec": Call(builtins.exec, write),
        "subprocess": Call(subprocess.Popen, ["touch", str(marker)]),
        "open": Call(builtins.open, str(marker), "w"),
        "copy": Call(shutil.copyfile, __file__, str(marker)),
        "Path.touch": Call(Path.touch, marker),
        "getattr": Call(Call(builtins.getattr, Call(importlib.import_module, "os"), "mkdir"), str(marker)),
        "map": Call(list, Call(map, os.mkdir, [str(marker)])),
        "partial": Call(functools.partial(os.mkdir, str(marker))),
        "torch.load": Call(functools.partial(torch.load, weights_only=False), str(evil)),
        "pickle.loads": Call(pickle.loads, pickle.dumps(Call(os.mkdir, str(marker)))),
        "torch.save": Call(torch.save, {}, str(marker)),
        "numpy": Call(functools.partial(np.load, allow_pickle=True), str(evil)),
        "in a namespace": argparse.Namespace(model=Call(os.mkdir, str(marker))),
        "in an ordered dictionary": OrderedDict(a=Call(os.mkdir, str(marker))),
    }
