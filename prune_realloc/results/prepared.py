"""A network that takes pictures as they were read, bytes of any size, and prepares them itself, bit for bit as Pillow.

Resampling is two matrix products, first along the width, then along the height, with the weights of Pillow: its
kernels, widened where the picture shrinks, without what lies beyond the edge, in steps of 2^-22, and whole bytes after
each of the two. ONNX has an operator for that, `Resize`, but its antialiased linear mode repeats the edge instead,
which moves the pixels there by up to 16 of 255, and not every runtime knows it. Sums of bytes times such weights are
exact in double precision, so any order of summation gives the same bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from prune_realloc.core.errors import InputError
from prune_realloc.data.preprocessing import Preprocessing

_STEPS = 2.0**22
"""Pillow's weights are whole numbers of this share."""


def _cubic(distance: Tensor) -> Tensor:
    """Keys' kernel with Pillow's a = -0.5."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, torch.zeros_like(distance)))


def _linear(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_min(0.0)


_KERNELS: dict[str, Callable[[Tensor], Tensor]] = {"bicubic": _cubic, "bilinear": _linear}
_CROP_MODES = ("center", "squash")


class Prepared(nn.Module):
    """`net` on pictures: uint8 of shape (B, H, W, C), any H and W that the pictures of a batch share.

    Raises:
        InputError: `prepare` asks for what cannot be done here.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, prepare: Preprocessing) -> None:
        super().__init__()
        _require_possible(prepare)
        self.net = net
        self.kernel = _KERNELS[prepare.interpolation]
        self.squash = prepare.crop_mode == "squash"
        self.size = prepare.input_size[1:]
        self.scaled = tuple(math.floor(side / prepare.crop_pct) for side in self.size)
        for name, values in (("mean", prepare.mean), ("std", prepare.std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, pictures: Tensor) -> Tensor:
        """What the network computes."""
        logits: Tensor = self.net(self.prepare(pictures))
        return logits

    def prepare(self, pictures: Tensor) -> Tensor:
        """What the network gets: float32 of shape (B, C, H, W) in its own size."""
        _, height, width, _ = pictures.shape
        sides = torch.scalar_tensor(height, dtype=torch.float64), torch.scalar_tensor(width, dtype=torch.float64)
        resized = self._resized(*sides)
        rows = self._weights(height, sides[0], resized[0], self.size[0], (-1, 1))
        columns = self._weights(width, sides[1], resized[1], self.size[1], (1, -1))
        # the first pass is along the height where that shrinks more than twice as much as the width
        lost = sides[0] - resized[0]
        high = (lost > 0) & (lost > 2 * (sides[1] - resized[1]))
        values = _either(high, pictures.permute(0, 3, 1, 2).double(), rows, columns)
        return (values.float() / 255 - self.mean) / self.std

    def _resized(self, height: Tensor, width: Tensor) -> tuple[Tensor, Tensor]:
        """Height and width before the crop: the same sums as torchvision's and timm's, in the same precision."""
        high, wide = map(float, self.scaled)
        if self.squash:
            return torch.full_like(height, high), torch.full_like(width, wide)
        if high == wide:  # the shorter side becomes that long, the longer one is cut to whole pixels
            short = torch.minimum(height, width)
            return torch.floor(high * height / short), torch.floor(high * width / short)
        ratio = torch.minimum(height / high, width / wide)
        return torch.round(height / ratio), torch.round(width / ratio)

    def _weights(self, count: int, side: Tensor, resized: Tensor, out: int, across: tuple[int, int]) -> Tensor:
        """What each of the `out` pixels in the middle of `resized` takes of each of the `count` pixels of a line.

        `across` is the shape in which the `out` pixels lie; no transposed product, which older runtimes lack in double.
        """
        scale = side / resized
        start = torch.round((resized - out) / 2)  # half to even, as Python rounds
        centres = ((torch.arange(out, dtype=torch.float64) + start + 0.5) * scale).view(across)
        places = torch.arange(count, dtype=torch.float64).view(across[::-1])
        shares = self.kernel(((places - centres + 0.5) * (1.0 / scale.clamp_min(1.0))).abs())
        shares = shares / shares.sum(across.index(1), keepdim=True) * _STEPS
        return torch.sign(shares) * torch.floor(shares.abs() + 0.5) / _STEPS


def _either(high: Tensor, values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Both passes, in the order of Pillow; in an exported file the choice is made there."""
    if not torch.compiler.is_exporting():
        return (_height_first if high else _width_first)(values, rows, columns)
    chosen: Tensor = torch.cond(high, _height_first, _width_first, (values, rows, columns))
    return chosen


def _height_first(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return _whole(_whole(rows @ values) @ columns)


def _width_first(values: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return _whole(rows @ _whole(values @ columns))


def _whole(values: Tensor) -> Tensor:
    """Bytes again, as numbers; halves go up, as in Pillow."""
    return torch.floor(values + 0.5).clamp(0.0, 255.0)


def _require_possible(prepare: Preprocessing) -> None:
    if prepare.interpolation not in _KERNELS:
        raise InputError(
            f"interpolation {prepare.interpolation!r} cannot be done inside the file; leave --with-preprocessing out, "
            f"or give --interpolation {' or '.join(_KERNELS)}"
        )
    if prepare.crop_mode not in _CROP_MODES:
        raise InputError(
            f"crop_mode {prepare.crop_mode!r} cannot be done inside the file, only {' and '.join(_CROP_MODES)}; leave "
            "--with-preprocessing out"
        )
    if not 0 < prepare.crop_pct <= 1:
        raise InputError(
            f"crop_pct {prepare.crop_pct} cannot be done inside the file; give --crop-pct above 0, at most 1, or leave "
            "--with-preprocessing out"
        )
