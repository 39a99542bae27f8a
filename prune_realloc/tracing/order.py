"""Where the tokens of a stream are while a unit computes in windows."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Order:
    """The tokens that a layer sees, of one image."""

    of_tokens: Tensor
    """The place of each token, shape (tokens,)."""
    places: int
    """How many there are; more than tokens where windows are filled up."""
    shape: tuple[int, ...]
    """Of the stream's tokens."""

    def in_stream(self, x: Tensor) -> Tensor:
        """What a layer sees, (.., C) -> (B, .., C) in the order of the stream."""
        flat = x.reshape(-1, self.places, x.shape[-1])
        return flat[:, self.of_tokens.to(x.device)].reshape(-1, *self.shape, x.shape[-1])


def order_of(found: Tensor, places: int) -> Order | None:
    """The order, where each token carries the number of its place; None where that is no order.

    Args:
        found: numbers from 1 on, shape (B, ..), alike for all images.
    """
    numbers = found.flatten(1).round().long() - 1
    one = numbers[0]
    apart = len(one.unique()) == len(one) and one.min() >= 0 and one.max() < places
    return Order(one.cpu(), places, tuple(found.shape[1:])) if apart and (numbers == one).all() else None
