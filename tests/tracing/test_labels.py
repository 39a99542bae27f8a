"""What functions of torch do to labels: the channels that stay or go together."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from prune_realloc.tracing.classes import classes
from prune_realloc.tracing.run import traced


class Two(nn.Module):
    """Two layers, and what is between them."""

    def __init__(self, between, width: int = 8, read: int | None = None) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, width), nn.Linear(read or width, 5)
        self.between = between

    def forward(self, x):
        return self.b(self.between(self, self.a(x.flatten(2).transpose(1, 2))))


def ties(net: nn.Module) -> list[list[int]]:
    """For each column of `b` the rows of `a` that stay or go with it."""
    record = traced(net.eval(), (1, 6, 4, 4))
    found = classes(record)
    rows, columns = (found.along(record.ids.runs[name, dim])[1] for name, dim in (("a.weight", 0), ("b.weight", 1)))
    return [[at for at, row in enumerate(rows) if row == column] for column in columns]


def reasons(net: nn.Module) -> set[str]:
    record = traced(net.eval(), (1, 6, 4, 4))
    found = classes(record)
    numbers = found.along(record.ids.runs["a.weight", 0])[1]
    return {found.frozen[int(number)].split(": ")[1] for number in numbers if int(number) in found.frozen}


ONE = [[i] for i in range(8)]


@pytest.mark.parametrize(
    ("between", "read", "expected"),
    [
        (lambda net, y: F.gelu(y) * 2 + 1, 8, ONE),
        (lambda net, y: y.flip(-1), 8, ONE[::-1]),
        (lambda net, y: y.roll(3, -1), 8, [ONE[(i - 3) % 8] for i in range(8)]),
        (lambda net, y: y.chunk(2, -1)[0] * y.chunk(2, -1)[1], 4, [[i, i + 4] for i in range(4)]),
        (lambda net, y: y[..., ::2] + y[..., 1::2], 4, [[2 * i, 2 * i + 1] for i in range(4)]),
        (lambda net, y: y.unflatten(-1, (2, 4)).mT.flatten(-2), 8, [ONE[j] for i in range(4) for j in (i, i + 4)]),
        (lambda net, y: torch.cat(y.split([3, 5], -1)[::-1], -1), 8, ONE[3:] + ONE[:3]),
        (lambda net, y: y.unflatten(1, (2, 2, 2, 2)).permute(0, 1, 3, 2, 4, 5).flatten(1, 4), 8, ONE),
        (lambda net, y: F.avg_pool1d(y.transpose(1, 2), 2).transpose(1, 2), 8, ONE),
    ],
    ids=["each", "flip", "roll", "glu", "pairs", "transposed", "split", "windows", "pooled"],
)  # fmt: skip
def test_channels_are_followed(between, read, expected):
    net = Two(between, read=read)
    assert ties(net) == expected
    assert not reasons(net)


@pytest.mark.parametrize(
    ("between", "read", "reason"),
    [
        (lambda net, y: y.cumsum(-1), 8, "cumsum is not known"),
        (lambda net, y: y.softmax(-1), 8, "softmax over channels"),
        (lambda net, y: y.mean(-1, keepdim=True), 1, "mean over channels"),
        (lambda net, y: y + torch.arange(8.0), 8, "it meets numbers that belong to no channel"),
    ],
    ids=["unknown", "softmax", "mean", "numbers"],
)
def test_what_must_stay_is_named(between, read, reason):
    assert reasons(Two(between, read=read)) == {reason}


def test_numbers_that_no_file_keeps_are_no_channels_unless_all_are_one():
    def plus_buffer(net, y):
        return y + net.extra

    for values, kept in ((torch.zeros(8), set()), (torch.arange(8.0), {"it meets numbers that belong to no channel"})):
        net = Two(plus_buffer)
        net.register_buffer("extra", values, persistent=False)
        assert reasons(net) == kept


def test_tables_in_heads_let_whole_heads_go():
    net = Two(lambda net, y: (y.unflatten(-1, (2, 4)) * torch.arange(4.0)).flatten(-2))
    record = traced(net.eval(), (1, 6, 4, 4))
    found = classes(record)
    held = found.along(record.ids.runs["a.weight", 0])[1].tolist()
    assert set(held) <= set(found.frozen)
    assert not set(held) & set(found.whole)


def test_a_parameter_goes_with_the_channels_of_all_layers_that_it_meets():
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.other, self.b = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 5)
            self.gamma = nn.Parameter(torch.ones(8))

        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)
            return self.b(torch.cat([self.other(x[:, :1]), self.a(x[:, 1:])], 1) * self.gamma)

    net = Joined()
    assert ties(net) == ONE
    record = traced(net.eval(), (1, 6, 4, 4))
    found = classes(record)
    numbers = [
        found.along(run)[1] for run in record.ids.all_runs() if run.name in ("gamma", "other.weight") and run.dim != 1
    ]
    assert len(numbers) == 2
    assert (numbers[0] == numbers[1]).all()
