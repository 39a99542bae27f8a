import pytest
import torch
from support.networks import build

from prune_realloc.core.errors import InputError
from prune_realloc.results.bench import bench, spread_notes, timings_of, torch_threads

SHAPE = (3, 32, 32)
QUICK = {"warmup": 0, "rounds": 2, "seconds": 0.0}


def test_speedup_is_the_median_of_pairs():
    # the machine slows down fourfold half way; b always takes half of what a takes in the same round
    a = [1.0, 1.0, 4.0, 4.0, 4.0]
    first, second = timings_of({"a": a, "b": [t / 2 for t in a]}, "eager", 8)
    assert (first.speedup, first.speedup_interval) == (1.0, (1.0, 1.0))
    assert (second.speedup, second.speedup_interval) == (2.0, (2.0, 2.0))
    assert (second.median_ms, second.min_ms, second.iqr_ms, second.rounds) == (2000.0, 500.0, 1500.0, 5)
    assert second.images_per_second == 4.0
    # pairs 1/3, 2, 3/2: their median is 3/2, the ratio of the medians would be 1
    second = timings_of({"a": [1.0, 2.0, 3.0], "b": [3.0, 1.0, 2.0]}, "eager", 1)[1]
    assert (second.speedup, second.speedup_interval) == (1.5, (1 / 3, 2.0))


@pytest.mark.parametrize(("times", "said"), [([1.0, 1.0, 1.0, 1.0, 2.0], False), ([1.0, 1.0, 2.0, 2.0, 2.0], True)])
def test_times_that_vary_are_named(times, said):
    notes = spread_notes(timings_of({"a": [1.0] * 5, "b": times}, "eager", 8))
    assert bool(notes) == said
    assert all("eager, batch 8: times of b vary, the middle half of them by 50% of their median" in n for n in notes)


def test_one_network_alone_is_compared_with_nothing():
    alone = bench({"model": build(depth=1)}, SHAPE, batch_sizes=(1,), **QUICK)
    both = bench({"source": build(depth=1), "model": build(depth=1)}, SHAPE, batch_sizes=(1,), **QUICK)
    assert set(both.columns()) - set(alone.columns()) == {"speed-up", "95 %"}
    for found in (alone, both):
        assert {len(row) for row in found.rows()} == {len(found.columns())}


def test_structure_and_modes():
    models = {"source": build().train(), "model": build(depth=1)}
    found = bench(models, SHAPE, batch_sizes=(1, 2), threads=1, **QUICK)
    assert [(t.backend, t.batch_size, t.model, t.rounds) for t in found.timings] == [
        ("eager", 1, "source", 2),
        ("eager", 1, "model", 2),
        ("eager", 2, "source", 2),
        ("eager", 2, "model", 2),
    ]
    assert (found.reference, found.threads, found.device, bool(found.device_name)) == ("source", 1, "cpu", True)
    assert [t.speedup for t in found.timings if t.model == "source"] == [1.0, 1.0]
    assert len(found.verdicts()) == 2
    assert (models["source"].training, models["model"].training) == (True, False)


def test_models_run_in_turns_on_the_same_images():
    seen = []
    models = {name: build(depth=1) for name in "ab"}
    for name, net in models.items():
        net.register_forward_pre_hook(lambda _, args, name=name: seen.append((name, args[0].shape[0], args[0].sum())))
    bench(models, SHAPE, batch_sizes=(2,), warmup=1, rounds=2, seconds=0)
    assert [sorted(s[:2] for s in seen[i : i + 2]) for i in (0, 2, 4)] == [[("a", 2), ("b", 2)]] * 3
    assert len({float(s[2]) for s in seen}) == 1


@pytest.mark.parametrize(
    ("times", "verdict"),
    [
        ([2.0] * 9, "NOT faster than a, it is slower"),
        ([0.5] * 9, "is faster than a (2.00 times its speed"),
        ([0.96] * 9, "NOT measurably faster than a"),
    ],
)
def test_verdict(times, verdict):
    found = bench({"a": build(depth=1)}, SHAPE, batch_sizes=(1,), **QUICK)
    assert found.verdicts() == ()
    (line,) = type(found)(
        **(
            vars(found)
            | {
                "reference": "a",
                "timings": tuple(timings_of({"a": [1.0] * 9, "b": times}, "eager", 1)),
            }
        )
    ).verdicts()
    assert verdict in line


def test_threads_and_modes_are_put_back_after_an_error():
    before, net = torch.get_num_threads(), build(depth=1).train()
    with torch_threads(before + 1) as used:
        assert used == torch.get_num_threads() == before + 1
    with pytest.raises(AssertionError, match="Input height"):
        bench({"a": net}, (3, 16, 16), threads=before + 1, **QUICK)
    assert (torch.get_num_threads(), net.training) == (before, True)


def test_nothing_to_measure_is_refused():
    with pytest.raises(InputError, match="models is empty"):
        bench({}, SHAPE)
    with pytest.raises(InputError, match="up to 8 models"):
        bench({str(i): build(depth=1) for i in range(9)}, SHAPE, backends=("compiled",))
