"""Shares of products of widths, by labels given by hand."""

from fractions import Fraction

import torch

from prune_realloc.tracing.calls import Labelled
from prune_realloc.tracing.shares import Shares

FEW = {1: ("embed",), 2: ("embed",), 3: ("heads",), 4: ("heads", "qk"), 5: ("heads", "qk")}


def shares(*planes, products=FEW, labels=7):
    tensors = tuple(torch.tensor(plane, dtype=torch.float64) for plane in planes)
    return Shares(products, labels).of(Labelled((), tensors))


def test_labels_of_one_site_count_together_and_others_for_themselves():
    assert shares([1, 2, 0, 6]) == {("embed",): Fraction(1, 2), (): Fraction(1, 2)}


def test_planes_are_multiplied_along_each_other():
    assert shares([[1], [0]], [[4, 5, 0]]) == {
        ("embed", "heads", "qk"): Fraction(1, 3),
        ("embed",): Fraction(1, 6),
        ("heads", "qk"): Fraction(1, 3),
        (): Fraction(1, 6),
    }


def test_heads_count_once_and_other_sites_as_often_as_they_occur():
    assert shares([4], [3], [5], [1], [1]) == {("heads", "qk", "qk", "embed", "embed"): Fraction(1)}


def test_many_labels_in_many_planes_are_told_apart():
    many = {label: (f"site.{label}",) for label in range(10**5 - 3, 10**5)}
    found = shares(*([[10**5 - 1, 10**5 - 2]] * 6), products=many, labels=10**5)
    assert found == {(f"site.{label}",) * 6: Fraction(1, 2) for label in (10**5 - 1, 10**5 - 2)}


def test_a_tensor_without_planes_is_of_no_site():
    assert shares() == {(): Fraction(1)}


def test_the_same_planes_in_other_shapes_are_not_mistaken():
    counts, plane = Shares(FEW, 7), torch.tensor([1.0, 1.0, 0.0, 4.0])
    assert counts.of(Labelled((), (plane[:2],))) == {("embed",): Fraction(1)}
    assert counts.of(Labelled((), (plane,)))["embed",] == Fraction(1, 2)
    assert counts.of(Labelled((), (plane[::3],)))["embed",] == Fraction(1, 2)
