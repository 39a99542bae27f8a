"""What a pickle names, read without executing it."""

from __future__ import annotations

import pickletools
from dataclasses import dataclass, field

_MOST = 2**21
"""Of a pickle's bytes, so many are looked at; the tensors of a checkpoint lie outside."""
_TORCH_MAGIC = bytes.fromhex("6cfc9c46f9206aa85019")
"""The number with which torch begins a file that is no zip archive."""


@dataclass
class Names:
    """The classes and functions that a pickle names, in their order, and its texts."""

    calls: list[str] = field(default_factory=list)
    texts: set[str] = field(default_factory=set)

    def module_class(self) -> str | None:
        """The class of a network that was pickled whole; None: there is none.

        Every `nn.Module` keeps its parts in attributes of these names.
        """
        if not {"_modules", "_parameters"} <= self.texts:
            return None
        foreign = (name for name in self.calls if not name.startswith(("torch._utils", "torch.storage", "collections")))
        return next(foreign, "a network")


def is_torch_stream(head: bytes) -> bool:
    """Whether a file that begins so is of torch's older format: pickles one behind the other."""
    return _TORCH_MAGIC in head[:32]


def names_in(content: bytes, pickles: int = 1) -> Names:
    """What the first pickles of `content` name; of a damaged one, what stands before the damage."""
    found, at = Names(), 0
    content = content[:_MOST]
    for _ in range(pickles):
        length = _read(content[at:], found)
        if not length:
            break
        at += length
    return found


def _read(content: bytes, found: Names) -> int:
    """Adds to `found`; the length of the pickle, or 0 where it is cut off or damaged."""
    recent: list[str] = []
    try:
        for operation, value, position in pickletools.genops(content):
            if operation.name == "GLOBAL":
                found.calls.append(str(value).replace(" ", ".", 1))
            elif operation.name == "STACK_GLOBAL" and len(recent) >= 2:
                found.calls.append(".".join(recent[-2:]))
            elif isinstance(value, str):
                found.texts.add(value)
                recent = [*recent[-1:], value]
            if operation.name == "STOP" and position is not None:
                return position + 1
    except Exception:  # pickletools raises many kinds; the file's reader says what is wrong with it
        return 0
    return 0
