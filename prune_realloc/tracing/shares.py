"""Which products of widths the elements of a tensor belong to, by the labels of its planes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np
from torch import Tensor

from prune_realloc.core.structure import site_place
from prune_realloc.tracing.calls import Labelled

Product = tuple[str, ...]
"""Sites whose widths are multiplied."""


class Shares:
    """Counts elements by their product. Labels are merged to products first, of which there are far fewer."""

    def __init__(self, products: Mapping[int, Product], labels: int) -> None:
        """
        Args:
            products: of the labels that belong to anything.
            labels: how many there are.
        """
        self._codes: dict[Product, int] = {(): 0}
        self._of_label = np.zeros(labels, dtype=np.int64)
        for label, product in products.items():
            self._of_label[label] = self._code(product)
        self._found: dict[tuple[object, ...], dict[Product, Fraction]] = {}

    def of(self, tensor: Labelled) -> dict[Product, Fraction]:
        """Product -> the share of the elements that are of it; planes are told apart by where they lie, so they are to
        live as long as this."""
        key = tuple((plane.data_ptr(), plane.shape, plane.stride()) for plane in tensor.planes)
        if key not in self._found:  # most calls hand labels on as they are
            self._found[key] = self._counted(tensor.planes)
        return self._found[key]

    def _counted(self, planes: Iterable[Tensor]) -> dict[Product, Fraction]:
        merged = np.zeros((), dtype=np.int64)
        for plane in planes:
            merged = self._merged(merged, self._of_label[plane.numpy().astype(np.int64)])
        times = np.bincount(merged.ravel()).tolist()
        return {product: Fraction(times[code], merged.size) for product, code in self._within(times)}

    def _within(self, times: list[int]) -> list[tuple[Product, int]]:
        return [(product, code) for product, code in self._codes.items() if code < len(times) and times[code]]

    def _merged(self, some: np.ndarray, more: np.ndarray) -> np.ndarray:
        """Codes of the products of two, broadcast."""
        products = list(self._codes)
        pairs = some * len(products) + more
        table = np.bincount(pairs.ravel())
        for pair in np.flatnonzero(table).tolist():
            one, other = divmod(pair, len(products))
            table[pair] = self._code(times((products[one], products[other])))
        return table[pairs]

    def _code(self, product: Product) -> int:
        return self._codes.setdefault(product, len(self._codes))


def times(products: Iterable[Product]) -> Product:
    """The product of several; the heads that two have in common are the same."""
    found: list[str] = []
    for product in products:
        found += [name for name in product if name not in found or site_place(name)[0] != "heads"]
    return tuple(found)
