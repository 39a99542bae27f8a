"""Values of an EfficientViT's arguments: from what a user writes to one for each block, checked; and short again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit_shapes import BlockShape

PER_BLOCK = ("num_heads", "qk_dim", "v_dim", "ffn_dim", "num_ffns", "window_size")
"""Arguments with one number for each block."""


def integer(name: str, value: object, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be a whole number of at least {least}, got {shown(value)}")
    return value


def integers(name: str, value: object, least: int) -> tuple[int, ...]:
    return tuple(integer(name, number, least) for number in listed(name, value))


def listed(name: str, value: object) -> Sequence[Any]:
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} must be a list, got {shown(value)}")
    return value


def shown(value: object) -> str:
    """A value as a user would write it."""
    return repr(list(value)) if isinstance(value, tuple) else repr(value)


def per_block(name: str, value: object, depth: Sequence[int], least: int) -> tuple[tuple[int, ...], ...]:
    """One number for each block of each stage, from one for all, or one or several for each stage.

    Raises:
        InputError: it is neither, or a number is smaller than `least`.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value] * len(depth)
    if not isinstance(value, list | tuple):
        raise InputError(f"{name} must be a whole number, or a list with one for each stage, got {shown(value)}")
    found = []
    for stage, entry in enumerate(_one_per_stage(name, value, depth)):
        numbers = list(entry) if isinstance(entry, list | tuple) else [entry] * depth[stage]
        _require_one_per_block(name, stage, numbers, depth)
        found.append(tuple(integer(f"{name} of stage {stage}", number, least) for number in numbers))
    return tuple(found)


def per_block_lists(name: str, value: object, depth: Sequence[int]) -> tuple[tuple[tuple[int, ...], ...], ...]:
    """One list of numbers for each block of each stage, from one list for all, or one or several for each stage.

    Raises:
        InputError: it is neither, or a number is smaller than 1.
    """
    value = listed(name, value)
    if all(isinstance(side, int) for side in value):
        value = [value] * len(depth)
    found = []
    for stage, entry in enumerate(_one_per_stage(name, value, depth)):
        entry = listed(name, entry)
        lists = [entry] * depth[stage] if all(isinstance(side, int) for side in entry) else list(entry)
        _require_one_per_block(name, stage, lists, depth)
        found.append(tuple(integers(f"{name} of stage {stage}", sides, least=1) for sides in lists))
    return tuple(found)


def require_one_per_merge(name: str, value: Sequence[Any], depth: Sequence[int]) -> None:
    """Raises InputError where there is not one entry for each patch merging."""
    if len(value) != len(depth) - 1:
        raise InputError(f"{name} has {len(value)} entries; give one for each of the {len(depth) - 1} patch merging(s)")


def require_buildable(block: BlockShape) -> None:
    """Raises InputError where the widths of a block do not go together."""
    where = f"of stage {block.stage}"
    if block.embed % block.heads:
        down = block.embed - block.embed % block.heads
        nearest = " or ".join(str(width) for width in (down, down + block.heads) if width)
        raise InputError(
            f"embed_dim {block.embed} {where} is not a multiple of num_heads {block.heads}; take {nearest}, or "
            "other heads"
        )
    if len(block.kernels) < block.heads:
        raise InputError(
            f"kernels {shown(block.kernels)} {where} are fewer than num_heads {block.heads}; give one for each head"
        )
    for side in block.kernels:
        if side % 2 == 0:
            raise InputError(f"kernels {shown(block.kernels)} {where}: {side} is even; take odd sides")


def shortest(name: str, value: Any) -> Any:
    """The shortest form that means the same: lists in place of tuples, and one value in place of equal ones."""
    if name == "img_size" and isinstance(value, tuple) and value[0] == value[1]:
        return value[0]
    if name in PER_BLOCK and value is not None:
        stages = [stage[0] if len(set(stage)) == 1 else list(stage) for stage in value]
        return stages[0] if all(stage == stages[0] and isinstance(stage, int) for stage in stages) else stages
    if name == "kernels":
        stages = [stage[0] if len(set(stage)) == 1 else stage for stage in value]
        one = len(set(stages)) == 1 and isinstance(stages[0][0], int)
        value = stages[0] if one else stages
    return _as_lists(value)


def _one_per_stage(name: str, value: Sequence[Any], depth: Sequence[int]) -> Sequence[Any]:
    if len(value) != len(depth):
        raise InputError(f"{name} has {len(value)} entries, embed_dim has {len(depth)} stages; give one for each")
    return value


def _require_one_per_block(name: str, stage: int, value: Sequence[Any], depth: Sequence[int]) -> None:
    if len(value) != depth[stage]:
        raise InputError(
            f"{name} of stage {stage} has {len(value)} entries, the stage {depth[stage]} block(s); give one number, "
            "or one for each"
        )


def _as_lists(value: Any) -> Any:
    return [_as_lists(item) for item in value] if isinstance(value, list | tuple) else value
