"""A claim against its controls: intervals, ranks in sets, and what follows, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from support.training import finished_run

from prune_realloc import InputError
from prune_realloc.training.compare import compare
from prune_realloc.training.controls import claim
from prune_realloc.training.group import Group

T_2 = 4.3026527297
"""Student's t of two degrees of freedom, 97.5 %."""


def group(name, behind=0.0, half_width=None, seeds=(0,), **more):
    """One that is so many points behind the group `m`, as `compare` gives it."""
    fields = {"macs": 1000, "params": 100, "half_width": None, "differs": None, "data": "demo", "folder": name}
    fields |= {"control": "m", "difference": -behind / 100, "difference_half_width": half_width and half_width / 100}
    return Group(**fields | {"name": name, "seeds": seeds, "top1": (), "mean": 0.8 - behind / 100} | more)


M = group("m", control=None, difference=None)


def numbered(stem, behind):
    return [group(f"{stem}-{number:03}", points) for number, points in enumerate(behind)]


def test_differences_and_intervals_by_hand_over_the_seeds_that_both_have(tmp_path):
    values = {"measured": (0.81, 0.84, 0.85, 0.99), "uniform": (0.80, 0.82, 0.84), "other": (0.80, 0.83, 0.87)}
    folders = [
        finished_run(tmp_path / f"{name}-seed{seed}", seed, top1)
        for name, tops in values.items()
        for seed, top1 in enumerate(tops)
    ]
    found = claim(compare(folders, "measured"), "measured")
    uniform, other = found.controls
    assert (found.claiming.name, found.claiming.seeds, found.claiming.difference) == ("measured", (0, 1, 2, 3), None)
    assert uniform.difference == pytest.approx(0.04 / 3)
    assert uniform.difference_half_width == pytest.approx(T_2 * np.std([1, 2, 1], ddof=1) / 100 / 3**0.5)
    assert uniform.over_zero is False  # 1.33 +- 1.43 points
    assert other.difference == pytest.approx(0.0)
    assert found.verdict == (
        "measured is not shown to be above uniform (the interval holds zero), other (the interval holds zero)"
    )


def test_above_every_control():
    found = claim([group("a", 1.0, 0.9), M, group("b", 2.0, 0.1)], "m")
    assert [row.over_zero for row in found.controls] == [True, True]
    assert found.verdict == "m is above every control with the interval over zero"
    assert (found.sets, found.not_above, found.notes) == ((), (), ())


def test_each_control_that_it_is_not_above_has_its_reason():
    alone = group("alone", difference=None)
    found = claim([M, group("over", 1, 0.5), group("on", 1, 1), group("under", -1, 0.5), group("one", 1), alone], "m")
    assert [row.over_zero for row in found.controls] == [True, False, False, None, None]
    assert found.not_above == (
        "on (the interval holds zero)",
        "under (the interval lies under zero)",
        "one (one seed in common, so no interval)",
        "alone (no seed in common)",
    )
    assert found.notes == ("alone and m have no seed in common, so there is no difference",)


@pytest.mark.parametrize(
    ("count", "beside", "verdict"),
    [
        (19, [], "m has rank 1 of 20 among shuffled-* (p = 0.05)"),
        (18, [], "m is not shown to be above shuffled-* (rank 1 of 19, p = 0.053)"),
        (
            19,
            [group("a", 1, 0.5)],
            "m has rank 1 of 20 among shuffled-* (p = 0.05), and is above every other control with the interval over "
            "zero",
        ),
        (19, [group("a", 1)], "m is not shown to be above a (one seed in common, so no interval)"),
    ],
)
def test_nineteen_shuffles_are_the_fewest_that_a_rank_can_decide(count, beside, verdict):
    assert claim([M, *numbered("shuffled", [1.0] * count), *beside], "m").verdict == verdict


def test_a_set_in_numbers_where_ties_count_against_the_claim():
    tie = group("random-006", difference=-1e-17)  # what rounding leaves of differences that cancel
    (found,) = claim([M, *numbered("random", [1, 2, -3, 0, 1, 1]), tie, group("x-1", 1, 0.5)], "m").sets
    assert (found.name, found.names[0], len(found.names)) == ("random-*", "random-000", 7)
    assert found.mean == pytest.approx((7 * 80 - 1 - 2 + 3 - 0 - 1 - 1) / 700)
    assert (found.best, found.best_mean) == ("random-002", pytest.approx(0.83))
    assert (found.at_or_above, found.rank, found.p) == (3, 4, 4 / 8)


def test_the_claim_is_in_no_set_and_two_stems_are_two_sets():
    named = replace(M, name="random-9")
    found = claim([named, *numbered("random", [1, 1]), *numbered("shuffled", [1, -1, 1])], "random-9")
    assert [(controls.name, controls.rank, controls.p) for controls in found.sets] == [
        ("random-*", 1, 1 / 3),
        ("shuffled-*", 2, 2 / 4),
    ]


def test_a_small_set_is_passed_by_the_interval_of_each():
    wide, narrow = group("vit-16", 1, 2), group("vit-16", 1, 0.5)
    assert claim([M, narrow, group("vit-32", 1, 0.5)], "m").not_above == ()
    assert claim([M, wide, group("vit-32", 1, 0.5)], "m").not_above == ("vit-* (rank 1 of 3, p = 0.33)",)


def test_one_that_shares_no_seed_is_in_no_set():
    alone = group("random-7", seeds=(5,), difference=None)
    found = claim([M, *numbered("random", [1, 1]), alone], "m")
    assert found.sets[0].p == 1 / 3
    assert found.not_above[0] == "random-7 (no seed in common)"


def test_costs_more_than_one_percent_apart_are_named():
    found = claim([M, group("a", macs=1010, params=99), group("b", macs=1011, params=98)], "m")
    assert found.notes == ("costs are more than 1 % from those of m: b (MACs +1.1 %), b (params -2.0 %)",)


def test_settings_that_differ_are_named():
    found = claim([M, group("a", differs="config.epochs is 3 here, 1 there")], "m")
    assert "a and m were trained otherwise (config.epochs is 3 here, 1 there)" in found.notes[0]


def test_ranks_over_fewer_seeds_than_the_claim_has_are_said():
    found = claim([replace(M, seeds=(0, 1)), *numbered("random", [1, 1])], "m")
    assert found.notes[0].startswith("random-* and m are ranked over the seeds that each two have")


def test_a_number_that_was_taken_for_a_seed_is_said():
    shuffled = [group("shuffled", folder="runs/shuffled-0"), group("shuffled-1", folder="runs/shuffled-1")]
    found = claim([M, *shuffled, group("x", folder="runs/x-seed0")], "m")
    assert found.notes == (
        "the number of shuffled-0 was taken for its seed, so shuffled is in no set; end names of folders in -seed0",
    )


def test_what_supports_no_claim_is_refused():
    with pytest.raises(InputError, match="controls 'm': no other group is given; give the runs of its controls too"):
        claim([M], "m")
    with pytest.raises(InputError, match="run 'a' is of the data 'cifar10', 'm' of 'demo'; give runs of one data set"):
        claim([M, group("a", data="cifar10")], "m")
