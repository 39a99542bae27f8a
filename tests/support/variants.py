"""The emitted networks that an earlier version wrote, as a variant."""

from pathlib import Path

from prune_realloc.recipe.reader import load_recipe
from prune_realloc.results.bench import Bench, timings_of
from prune_realloc.results.variant import Variant

FOLDER = Path(__file__).parent.parent / "old_files" / "data" / "variants"


def old_variant(*, timed: bool) -> Variant:
    """With made-up latencies where it is `timed`: in every round, realloc takes half of what control takes."""
    recipe = load_recipe(FOLDER / "realloc" / "recipe.yaml")
    return Variant(name="", recipe=recipe, latency=_latency() if timed else None)


def _latency() -> Bench:
    timings = []
    for batch_size, control in ((1, 0.004), (32, 0.008)):
        times = {"control": [control] * 9, "realloc": [control / 2] * 9}
        timings += timings_of(times, "eager", batch_size)
    return Bench(
        timings=tuple(timings),
        reference="control",
        input_shape=(1, 32, 32),
        device="cpu",
        device_name="Abacus",
        threads=2,
        seed=0,
        versions={"torch": "2"},
    )
