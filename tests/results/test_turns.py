import pytest
import torch

from prune_realloc.results.turns import cuda_seconds, interleave, stopwatch_for, wall_seconds


class Clock:
    """Time passes only where a call says so."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def __call__(self):
        return self.now

    def seconds(self, call):
        return wall_seconds(call, clock=self)

    def call(self, name, *durations):
        left = list(durations)

        def spend():
            self.order.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return spend


def test_calls_take_turns_in_drawn_order():
    def order_of(seed):
        clock = Clock()
        times = interleave(
            {"a": clock.call("a", 1.0), "b": clock.call("b", 2.0)},
            warmup=1,
            rounds=20,
            seconds=0,
            seed=seed,
            stopwatch=clock.seconds,
            clock=clock,
        )
        assert times == {"a": [1.0] * 20, "b": [2.0] * 20}
        return clock.order

    rounds = [tuple(order_of(0)[i : i + 2]) for i in range(2, 42, 2)]
    assert set(rounds) == {("a", "b"), ("b", "a")}  # each once in a round, and neither is always first
    assert order_of(0) == order_of(0) != order_of(1)


def test_rounds_are_added_until_the_seconds_are_spent():
    clock = Clock()
    times = interleave(
        {"a": clock.call("a", 1.0), "b": clock.call("b", 1.0)},
        warmup=0,
        rounds=1,
        seconds=4,
        stopwatch=clock.seconds,
        clock=clock,
    )
    assert len(times["a"]) == len(times["b"]) == 4  # 4 s for each of two: 8 s in rounds of 2 s


def test_a_gpu_is_timed_by_its_own_events(monkeypatch):
    done = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            done.append("event")

        def synchronize(self):
            done.append("wait")

        def elapsed_time(self, end):
            return 2.5  # milliseconds

    monkeypatch.setattr(torch.cuda, "Event", Event)
    stopwatch = stopwatch_for(torch.device("cuda"))
    assert stopwatch(lambda: done.append("pass")) == 0.0025
    assert done == ["event", "pass", "event", "wait"]
    interleave({"a": lambda: done.append("pass")}, warmup=1, rounds=1, seconds=0, stopwatch=stopwatch)
    assert done.count("wait") == 3  # also after what is not counted


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_events_see_work_that_goes_on_after_the_call_returns():
    big = torch.randn(4096, 4096, device="cuda")
    cuda_seconds(lambda: big @ big)
    few, many = (cuda_seconds(lambda n=n: [big @ big for _ in range(n)]) for n in (1, 20))
    assert many > 5 * few
