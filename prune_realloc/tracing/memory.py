"""What is alive while a network runs, by the sites whose units it belongs to.

Two passes on images tell which tensors are alive at a time, and what each image adds to their sizes. A pass on labels,
call by call the same, tells which channels lie in each; so what is alive is a sum of products of widths.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from math import ceil, prod

import numpy as np
import torch
from torch import nn

from prune_realloc.core.memory import Alive, Memory, Moment
from prune_realloc.core.structure import Site, site_beside, site_place
from prune_realloc.runtime.attention import FEW_KEYS, FEW_LOGITS
from prune_realloc.tracing.calls import Labelled, OnImages, OnLabels
from prune_realloc.tracing.ids import Run
from prune_realloc.tracing.shares import Product, Shares, times

_Kind = tuple[Product, tuple[str, str] | None, tuple[int, int] | None]
"""What `Alive` has beside its bytes."""
_Bytes = dict[_Kind, tuple[Fraction, Fraction]]
"""For each image, and whatever the number of images."""


@torch.no_grad()
def memory_of(model: nn.Module, shape: tuple[int, ...], sites: Sequence[Site]) -> Memory | None:
    """The formula of the memory of a network; None where it does not do the same on labels as on images.

    Args:
        model: in evaluation mode, on a CPU.
        shape: of a batch of one image.
        sites: all of the network's.
    """
    two, three = (OnImages.of(model, (count, *shape[1:])) for count in (2, 3))  # one may need no copy where two do
    seen = OnLabels.of(model, shape, {call for call, _ in two.made})
    if two.names != seen.names or two.made != three.made:
        return None
    reading = _Reading(seen, sites, next(model.parameters()).element_size())
    sizes = zip(two.made, two.allocations.sizes, three.allocations.sizes, strict=True)
    storages = [reading.storage(*made, more - some, 3 * some - 2 * more) for made, some, more in sizes]
    moments = []
    for numbers in two.allocations.moments:
        call, _ = two.made[max(numbers)]
        before = [storages[number] for number in numbers if two.made[number][0] < call]
        inside = [storages[number] for number in numbers if two.made[number][0] == call]
        padding, *products = reading.unlike(call)
        moments.append((call, _sum([*before, *inside, padding])))
        moments += [(call, _sum([*before, product])) for product in products]
    return Memory(
        number=reading.number,
        buffers=sum(x.numel() * x.element_size() for x in model.buffers()),
        moments=tuple(reading.moment(call, alive) for call, alive in _largest(moments)),
    )


class _Reading:
    """Reads labels as products of the widths of sites."""

    def __init__(self, seen: OnLabels, sites: Sequence[Site], number: int) -> None:
        self.number = number
        """Bytes of one."""
        self._seen = seen
        self._widths = {site.name: site.width for site in sites}
        self._lying: dict[tuple[str, int], dict[int, Product]] = defaultdict(lambda: defaultdict(tuple))
        for site in sites:
            for part in site.slices if site.axis != "block" else ():
                for position in part.index.ravel().tolist():
                    self._lying[part.parameter, part.dim][position] += (site.name,)
        self._counts = Shares(self._of_labels(), seen.record.ids.count)

    def storage(self, call: int, place: int | None, each: int, shared: int) -> _Bytes:
        """What a storage takes.

        Args:
            call, place: as in `OnImages.made`.
            each, shared: bytes for each image, and whatever their number.
        """
        shares = self._shares(self._seen.like(call, place, (each or shared) // self.number))
        return {(product, None, None): (each * part, shared * part) for product, part in shares.items()}

    def moment(self, call: int, alive: _Bytes) -> Moment:
        """What is alive in a call."""
        found = []
        for (product, unlike, most), (each, shared) in alive.items():
            units = prod(self._widths[name] for name in product)
            one = Alive(sites=product, each=ceil(each / units), shared=ceil(shared / units), most=most, unlike=unlike)
            found.append(one)
        return Moment(place=self._seen.modules.get(call, ""), alive=tuple(found))

    def _shares(self, tensor: Labelled | None) -> dict[Product, Fraction]:
        """Of the elements of a tensor: which share is of each product of widths."""
        return {(): Fraction(1)} if tensor is None else self._counts.of(tensor)

    def _of_labels(self) -> dict[int, Product]:
        """Label -> the sites whose units it belongs to; of one that stands for a head, those of heads."""
        ids = self._seen.record.ids
        found = {run.start + place: product for run in ids.all_runs() for place, product in enumerate(self._along(run))}
        for label, members in ids.members.items():
            own = [set(found.get(member, ())) for member in members.tolist()]
            common = set.intersection(*own) if own else set()
            found[label] = tuple(name for name in self._widths if name in common and site_place(name)[0] == "heads")
        return found

    def _along(self, run: Run) -> Iterator[Product]:
        """Of each position of a run of ids."""
        if run.dim is not None:
            lying = self._lying[run.name, run.dim]
            yield from (lying[place] for place in range(run.size))
            return
        for place in np.ndindex(run.shape):
            yield times(self._lying[run.name, dim][position] for dim, position in enumerate(place))

    def unlike(self, call: int) -> list[_Bytes]:
        """What attention of queries and values that differ in width holds besides: padding for the fused kernel, or at
        three times that of products, which come in its place.

        These are the products of queries and keys, of which copies are made; the softmax; and the product with values.
        """
        if self._seen.names[call] != "scaled_dot_product_attention":
            return [{}]
        query, key, value, *mask = self._seen.took[call]
        shares = self._shares(query)
        names = [n for n in max(shares, key=lambda n: shares[n]) if site_place(n)[0] in ("heads", "qk")]
        qk = next((name for name in names if site_place(name)[0] == "qk"), None)
        if qk is None or (v := site_beside(qk, "v")) not in self._widths:
            return [{}]
        heads = tuple(name for name in names if name != qk)
        rows, keys, few = prod(query.shape[:-1]), key.shape[-2], key.shape[-2] <= FEW_KEYS

        def alive(sites: Product, length: int, in_products: bool = True) -> _Bytes:
            """Vectors of such a length for each query."""
            units, of_heads = (prod(self._widths[name] for name in names) for names in (sites, heads))
            limit = Fraction(FEW_LOGITS * length * self.number, keys * units)  # products are for no more logits
            most = None if few or not in_products else (int(limit), int(limit * of_heads))
            return {(sites, (qk, v), most): (Fraction(rows * length * self.number), Fraction(0))}

        return [
            {} if few else alive(heads, 2 * max(query.shape[-1], value.shape[-1]), in_products=False),
            alive(heads, keys) | alive((*heads, qk), 3 * query.shape[-1]),
            alive(heads, (3 if mask else 2) * keys),
            alive(heads, keys) | alive((*heads, v), 2 * value.shape[-1]),
        ]


def _sum(storages: Iterable[_Bytes]) -> _Bytes:
    found: _Bytes = {}
    for storage in storages:
        for kind, (each, shared) in storage.items():
            before = found.get(kind, (Fraction(0), Fraction(0)))
            found[kind] = before[0] + each, before[1] + shared
    return found


def _largest(moments: Sequence[tuple[int, _Bytes]]) -> list[tuple[int, _Bytes]]:
    """Those than which no other holds more, whatever the widths and the number of images."""
    kinds = list(dict.fromkeys(kind for _, alive in moments for kind in alive))
    table = np.array([[float(n) for kind in kinds for n in alive.get(kind, (0, 0))] for _, alive in moments])
    kept: list[int] = []
    for place in np.argsort(-table.sum(axis=1), kind="stable").tolist():
        if not kept or not (table[place] <= table[kept]).all(axis=1).any():
            kept.append(place)
    return [moments[place] for place in sorted(kept)]
