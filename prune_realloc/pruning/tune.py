"""After the refit of a part of a network: a few steps of gradient descent towards what the source has behind that part.

What enters the part comes from the network that is cut and tuned up to there; what it is asked for is what the source
has behind it, so the error of the parts before is made up for as well. No labels are read. On images that nothing was
fitted to, the part must come nearer to the source than its refit had; else it stays as the refit left it.
"""

# B images, N tokens, D channels

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from prune_realloc.data.batches import Batch
from prune_realloc.pruning.streams import Streams

RATE = 0.01
"""Of the first step, as a share of the size of the numbers that move; from there it falls in a straight line to 0."""
_LEAST = 1e-3
"""Size of numbers at and below which they move as if they had this one: biases may begin at zero."""
_ROUNDING = 1e-10
"""A squared error that is a smaller share of the squares of what is asked for is none."""


@dataclass(frozen=True, eq=False)
class Tuning:
    """How the parts of a network are tuned, and what came of it."""

    steps: int
    """Of each part; one batch each."""
    seed: int
    """Decides the order of the batches."""
    held: Iterable[Batch]
    """Images that no layer is fitted to, which decide what is kept."""
    read: set[nn.Parameter] = field(default_factory=set)
    """What the parts before read: moving it would change them."""
    errors: list[tuple[str, float, float]] = field(default_factory=list)
    """Name of each part that was tuned, and its mean squared error on the held-back images before and after."""

    @property
    def kept(self) -> int:
        """How many parts came nearer to the source."""
        return sum(after < before for _, before, after in self.errors)


@dataclass(frozen=True, eq=False)
class Stretch:
    """A part of a network. The streams hold what the source has behind it (x) and what enters it in the model (y)."""

    name: str
    run: Callable[[Tensor], Tensor]
    """y -> what the model has behind the part, (B, .., D)."""
    asked: Callable[[Tensor], Tensor]
    """x -> what it should have there, (B, .., D)."""
    weight: Tensor | None = None
    """How much each token matters, shape (N,); None for equal ones."""

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean squared error of one batch."""
        return self._mean(self.run(y) - self.asked(x))

    def power(self, x: Tensor) -> float:
        """Mean square of what is asked for."""
        return float(self._mean(self.asked(x)))

    def _mean(self, values: Tensor) -> Tensor:
        squares = values.square()
        if self.weight is None:
            return squares.mean()
        return (squares.reshape(-1, len(self.weight), squares.shape[-1]) * self.weight.to(squares)[:, None]).mean()


def tune_(model: nn.Module, stretch: Stretch, streams: Streams, tuning: Tuning) -> None:
    """Tune the parameters that a part reads and none before it, in place."""
    fitted, held = streams.fitted(), sorted(streams.held)
    with torch.enable_grad(), _movable(model):
        moved = _read_by(model, stretch.loss(*streams.batch(fitted[0]))) - tuning.read
    tuning.read.update(moved)
    before = _mean_loss(stretch, streams, held)
    if not moved or before <= _ROUNDING * stretch.power(streams.batch(held[0])[0]):
        return
    parameters = [parameter for parameter in model.parameters() if parameter in moved]
    as_refitted = [parameter.detach().clone() for parameter in parameters]
    with torch.enable_grad(), _movable(model):
        _descend_(parameters, stretch, streams, tuning, before)
    after = _mean_loss(stretch, streams, held)
    tuning.errors.append((stretch.name, before, after))
    if not after < before:
        for parameter, value in zip(parameters, as_refitted, strict=True):
            parameter.copy_(value)


def _descend_(parameters: list[nn.Parameter], stretch: Stretch, streams: Streams, tuning: Tuning, scale: float) -> None:
    """Adam with a rate for each parameter by its size.

    Args:
        scale: the loss is divided by it, so that no number of the optimiser depends on the size of activations.
    """
    groups = [
        {"params": [parameter], "lr": RATE * max(float(parameter.detach().square().mean().sqrt()), _LEAST)}
        for parameter in parameters
    ]
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / tuning.steps)
    order = _in_turns(streams.fitted(), tuning.seed)
    for _ in range(tuning.steps):
        loss = stretch.loss(*streams.batch(next(order))) / scale
        optimizer.zero_grad()
        loss.backward(inputs=parameters)
        optimizer.step()
        schedule.step()
    optimizer.zero_grad()


def _in_turns(batches: list[int], seed: int) -> Iterator[int]:
    """All of them, then all again in another order, without end."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        for at in torch.randperm(len(batches), generator=generator).tolist():
            yield batches[at]


def _mean_loss(stretch: Stretch, streams: Streams, batches: list[int]) -> float:
    """Mean over the images of these batches."""
    total, images = 0.0, 0
    for x, y in map(streams.batch, batches):
        total += float(stretch.loss(x, y)) * len(y)
        images += len(y)
    return total / images


def _read_by(model: nn.Module, loss: Tensor) -> set[nn.Parameter]:
    """The parameters that the loss depends on."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {parameter for parameter, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


@contextmanager
def _movable(model: nn.Module) -> Iterator[None]:
    """Inside the block all parameters take gradients, those too that their owner has frozen."""
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        for parameter, _ in before:
            parameter.requires_grad_(parameter.is_floating_point())
        yield
    finally:
        for parameter, needs in before:
            parameter.requires_grad_(needs)
