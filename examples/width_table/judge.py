"""How well does a rule tell which widths train well? Its rank correlation with a table's accuracies, beside others'.

    python examples/width_table/judge.py examples/width_table/cifar10_2M.jsonl --rule my_rule.py:quality

A rule is a function of an `Allocation` (allocations.py) that gives a number, larger where it expects a better network.
It is chosen on the random allocations of one half of the table (`--half choose`) and reported on the other, the
default. Beside it: parameters, every single width, and linear fits that have seen the accuracies of the choosing half,
which show how much is there to be had (on that half itself they judge what they have seen). Accuracies are on held-back
training images, means over seeds where there are several; `--test` judges by those on test images, at the end.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from allocations import Allocation
from rows import CHOOSE, RANDOM, REPORT, STRUCTURED, Row, read
from scipy.stats import rankdata

from prune_realloc import InputError
from prune_realloc.core.intervals import interval, rank_correlation

DRAWS = 2000
"""Of the bootstrap."""
Rule = Callable[[Allocation], float]


@dataclass(frozen=True)
class Trained:
    """A random allocation, and what it came to."""

    allocation: Allocation
    params: int
    half: str
    top1: float
    """Mean over its seeds."""


@dataclass(frozen=True)
class Judged:
    """One predictor on one half."""

    correlation: float
    """Spearman's, with the accuracies."""
    interval: tuple[float, float]
    """95 %, by the bootstrap over allocations."""
    behind: tuple[float, float] | None
    """95 % interval of the rule's correlation minus the size of this one's, on the same allocations; None: the rule."""


def trained(rows: list[Row], tests: list[Row] | None = None) -> list[Trained]:
    """The random allocations of a table, with the accuracies of another file where one is given."""
    accuracy = {(row["name"], row["seed"]): row["top1"] for row in (rows if tests is None else tests)}
    found = []
    for row in rows:
        if row["kind"] == RANDOM and row["seed"] == 0:
            top1 = [value for (name, _), value in accuracy.items() if name == row["name"]]
            found.append(Trained(Allocation.read(row["widths"]), row["params"], row["half"], float(np.mean(top1))))
    return found


def single_widths(allocation: Allocation) -> dict[str, float]:
    """Every width and ratio by itself, and the means of the ratios."""
    ratios = allocation.ratios
    numbers = {"channels": allocation.embed, "Q/K width": allocation.qk}
    numbers |= {"V ratio": ratios["v"], "FFN ratio": ratios["ffn"]}
    found = {f"{what}, stage {i + 1}": float(x) for what, values in numbers.items() for i, x in enumerate(values)}
    means = {f"{what}, mean": float(np.mean(numbers[what])) for what in ("Q/K width", "V ratio", "FFN ratio")}
    return means | found


FEW = ("channels, stage 1", "Q/K width, mean", "V ratio, mean", "FFN ratio, mean")
"""What the small fit reads."""


def linear_fit(known: list[Trained], names: tuple[str, ...] | None = None) -> Rule:
    """Least squares on the logarithms of single widths, by their names; None: of every stage's."""

    def features(allocation: Allocation) -> np.ndarray:
        widths = single_widths(allocation)
        chosen = names or tuple(name for name in widths if not name.endswith("mean"))
        return np.array([1.0, *(np.log(widths[name]) for name in chosen)])

    seen = np.array([features(one.allocation) for one in known])
    weights = np.linalg.lstsq(seen, np.array([one.top1 for one in known]), rcond=None)[0]
    return lambda allocation: float(features(allocation) @ weights)


def judge(found: list[Trained], half: str, rule: Rule | None) -> dict[str, Judged]:
    """Predictor -> its judgement on one half; the rule first, then parameters, single widths and fits.

    Raises:
        InputError: too few allocations are trained, or accuracies or the rule's numbers do not differ.
    """
    known = [one for one in found if one.half == CHOOSE]
    judged = [one for one in found if one.half == half]
    if min(len(known), len(judged)) < 3:
        raise InputError(f"the table has {len(known)} and {len(judged)} random allocations in its halves; train more")
    predictions = {} if rule is None else {"the rule": [rule(one.allocation) for one in judged]}
    equal = {"accuracies": [one.top1 for one in judged], **predictions}
    if same := [what for what, values in equal.items() if len({*values}) == 1]:
        raise InputError(
            f"{same[0]}: one number for all allocations of the half {half!r}; train longer, or give another rule"
        )
    predictions["parameters"] = [one.params for one in judged]
    singles = [single_widths(one.allocation) for one in judged]
    predictions |= {name: [widths[name] for widths in singles] for name in singles[0]}
    for name, fit in {"of four": linear_fit(known, FEW), "of every width": linear_fit(known)}.items():
        predictions[f"linear fit {name}"] = [fit(one.allocation) for one in judged]
    return correlations(predictions, np.array([one.top1 for one in judged]))


def correlations(predictions: Mapping[str, list[float]], top1: np.ndarray) -> dict[str, Judged]:
    """The first is the rule that all others are set against, where it is called so."""
    draws = np.random.default_rng(0).integers(0, len(top1), (DRAWS, len(top1)))
    arrays = {name: np.array(values, dtype=float) for name, values in predictions.items()}
    spread = {name: rank_correlations(values[draws], top1[draws]) for name, values in arrays.items()}
    rule = spread.get("the rule")
    return {
        name: Judged(
            rank_correlation(values, top1),
            bounds(spread[name]),
            None if rule is None or name == "the rule" else bounds(rule - np.abs(spread[name])),
        )
        for name, values in arrays.items()
    }


def rank_correlations(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's, of every row of one with the same row of the other; NaN where one is constant."""
    centred = [ranks - ranks.mean(axis=1, keepdims=True) for ranks in (rankdata(a, axis=1), rankdata(b, axis=1))]
    norms = [np.sqrt((ranks**2).sum(axis=1)) for ranks in centred]
    with np.errstate(invalid="ignore"):
        return (centred[0] * centred[1]).sum(axis=1) / (norms[0] * norms[1])


def bounds(values: np.ndarray) -> tuple[float, float]:
    """Of the middle 95 % of those that are defined."""
    low, high = np.nanquantile(values, (0.025, 0.975))
    return float(low), float(high)


def table(judged: Mapping[str, Judged]) -> str:
    """With a last column where there is a rule that the others are set against."""
    against = any(one.behind is not None for one in judged.values())
    heads = ["predictor", "Spearman", "95 % interval", *(["the rule minus its size"] if against else [])]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for name, one in judged.items():
        cells = [name, f"{one.correlation:+.2f}", f"{one.interval[0]:+.2f} to {one.interval[1]:+.2f}"]
        behind = "" if one.behind is None else f"{one.behind[0]:+.2f} to {one.behind[1]:+.2f}"
        lines.append(f"| {' | '.join(cells + ([behind] if against else []))} |")
    return "\n".join(lines)


def noise(rows: list[Row]) -> str:
    """What a second seed changes: how far any rule can come."""
    first, second = ({row["name"]: row["top1"] for row in rows if row["seed"] == seed} for seed in (0, 1))
    pairs = np.array([(first[name], second[name]) for name in second if name in first])
    if len(pairs) < 3:
        return "Second seeds: too few."
    spread = 100 * np.std(pairs[:, 0] - pairs[:, 1], ddof=1) / np.sqrt(2)
    between = 100 * np.std([one.top1 for one in trained(rows)], ddof=1)
    return (
        f"Second seeds: Spearman {rank_correlation(*pairs.T):+.2f} between two of the same {len(pairs)} networks; "
        f"standard deviation {spread:.2f} points between seeds, {between:.2f} between allocations."
    )


def named(rows: list[Row], tests: list[Row] | None = None) -> str:
    """What the structured allocations came to, the best first, and how many of the random ones are below."""
    accuracy = {(row["name"], row["seed"]): 100 * row["top1"] for row in (rows if tests is None else tests)}
    kinds = {row["name"]: row["kind"] for row in rows}
    drawn = [top1 for (name, seed), top1 in accuracy.items() if kinds[name] == RANDOM and seed == 0]
    by_name: dict[str, list[float]] = {}
    for (name, _), top1 in accuracy.items():
        if kinds[name] == STRUCTURED:
            by_name.setdefault(name, []).append(top1)
    lines = [f"| allocation | seeds | top-1 % | 95 % | above so many of {len(drawn)} random |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for name, values in sorted(by_name.items(), key=lambda item: -float(np.mean(item[1]))):
        half, mean = interval(values), float(np.mean(values))
        spread = "" if half is None else f"+-{half:.2f}"
        lines.append(f"| {name} | {len(values)} | {mean:.2f} | {spread} | {sum(mean > top1 for top1 in drawn)} |")
    return "\n".join(lines)


def load_rule(spec: str) -> Rule:
    """The function that `file.py:name` names.

    Raises:
        InputError: there is none.
    """
    path, _, name = spec.rpartition(":")
    if not Path(path).is_file():
        raise InputError(f"rule {spec!r} names no file; give file.py:function")
    module_spec = importlib.util.spec_from_file_location("rule", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    if not callable(rule := getattr(module, name, None)):
        raise InputError(f"rule {spec!r}: {path} has no function {name!r}; give file.py:function")
    return rule


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--rule", help="file.py:function of an allocation")
    parser.add_argument("--half", choices=(CHOOSE, REPORT), default=REPORT)
    parser.add_argument("--test", type=Path, help="file of the same trainings on test images")
    args = parser.parse_args(argv)
    try:
        rule = None if args.rule is None else load_rule(args.rule)
        rows = read(args.table)[1]
        tests = None if args.test is None else read(args.test)[1]
        print(table(judge(trained(rows, tests), args.half, rule)))
        print(named(rows, tests))
        print(noise(rows))
    except InputError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
