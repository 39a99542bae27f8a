"""What heads look at and what they add to the stream, watched while a network runs, as products between heads."""

# B images or windows, H heads, N and M tokens, K query and V value width per head, D channels of the stream

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from prune_realloc.core.structure import Site, Slice, common_module
from prune_realloc.pruning.hooks import hooked
from prune_realloc.runtime.attention import scaled_dot_product_attention, shares


def cosines(products: np.ndarray) -> np.ndarray:
    """Cosine similarities (H, H) from scalar products (H, H); of what is zero, 0."""
    norms = np.sqrt(np.diagonal(products))
    scale = norms[:, None] * norms[None]
    return np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)


class HeadProducts:
    """Sums of scalar products between the heads of each site, over everything that runs while `watched`."""

    def __init__(self, model: nn.Module, sites: Sequence[Site]) -> None:
        """Args:
        sites: of the axis `heads`.
        """
        self.model, self.sites = model, sites
        self.maps: dict[str, np.ndarray] = {}
        """Site -> products of attention maps (H, H); where none were seen, nothing."""
        self.outputs: dict[str, np.ndarray] = {}
        """Site -> products of what heads add to the stream (H, H); where no layer reads them one by one, nothing."""

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While it lasts, every pass of the network is added."""
        maps = _Maps(self)
        with ExitStack() as stack:
            for site in self.sites:
                module = self.model.get_submodule(common_module(part.parameter for part in site.slices))
                stack.callback(module.register_forward_pre_hook(lambda *call, site=site: maps.enter(site)).remove)
                stack.callback(module.register_forward_hook(lambda *call: maps.leave()).remove)
                stack.enter_context(hooked(self.model, _written(self, site)))
            stack.enter_context(maps)
            yield

    def add(self, found: dict[str, np.ndarray], site: Site, each: Tensor) -> None:
        """Adds the products of `each`, shape (H, numbers)."""
        products = (each.double() @ each.double().T).cpu().numpy()
        found[site.name] = found.get(site.name, 0) + products


_FUSED = (F.scaled_dot_product_attention, scaled_dot_product_attention)


_PRODUCTS = ("matmul", "__matmul__", "bmm")


class _Maps(TorchFunctionMode):
    """Sees every softmax and every fused attention inside the module of a site, and products without a softmax."""

    def __init__(self, products: HeadProducts) -> None:
        super().__init__()
        self.products = products
        self.site: Site | None = None
        self.single: list[Tensor] = []
        """Maps of one head each, (B, N, M), in the order in which they are computed."""
        self.linear: tuple[Tensor, Tensor] | None = None
        """The last product and what stands left in it, which may be keys (.., K, M) on values."""

    def enter(self, site: Site) -> None:
        self.site = site

    def leave(self) -> None:
        if self.site is not None and len(self.single) == self.site.units:
            self._add(torch.stack(self.single, dim=1))
        self.site, self.single, self.linear = None, [], None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.site is not None and func in _FUSED:
            self._add(_fused_map(*args, **kwargs))
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "") if self.site is not None else ""
        if name == "softmax":
            self._add(out)
        if name in _PRODUCTS and len(args) == 2:
            self._multiplied(args[0], args[1], out)
        return out

    def _multiplied(self, left: Tensor, right: Tensor, out: Tensor) -> None:
        """Of linear attention: keys on values first, then queries on that product."""
        if self.linear is not None and right is self.linear[0]:
            implied = linear_map(left, self.linear[1])
            if implied is not None:
                self._add(implied)
        self.linear = (out, left)

    def _add(self, maps: Tensor) -> None:
        """Of shape (B, H, N, M), or of one head; what has another shape is no map of these heads."""
        site = self.site
        assert site is not None
        if maps.ndim == 3:
            self.single.append(maps.detach())
        if maps.ndim == 4 and maps.shape[1] > site.units and maps.shape[1] % site.units == 0:
            maps = maps.unflatten(1, (-1, site.units)).flatten(0, 1)  # windows that lie among the heads
        if maps.ndim == 4 and maps.shape[1] == site.units:
            self.products.add(self.products.maps, site, maps.detach().transpose(0, 1).flatten(1))


def linear_map(query: Tensor, key: Tensor) -> Tensor | None:
    """What linear attention weighs values by, as if it had computed the map: rows that add up to 1, (.., N, M).

    Args:
        query: behind the kernel, (.., N, K).
        key: behind the kernel, (.., K, M).

    Returns:
        None where a kernel gives numbers below zero: then nothing is weighed.
    """
    if query.ndim != key.ndim or query.shape[:-2] != key.shape[:-2] or query.min() < 0 or key.min() < 0:
        return None
    weights = query @ key
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def _fused_map(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """What fused attention weighs values by, (.., N, M); its arguments are torch's."""
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    return shares(query, key, attn_mask, scale)


def _written(products: HeadProducts, site: Site) -> list[Any]:
    """The places at which what each head adds to the stream is computed: one, or none."""
    layers = dict(products.model.named_modules())
    for part in site.slices:
        layer = layers.get(part.parameter.rpartition(".")[0])
        pointwise = isinstance(layer, nn.Linear) or (type(layer) is nn.Conv2d and layer.kernel_size == (1, 1))
        if part.dim == 1 and part.units is None and pointwise:
            name = part.parameter.rpartition(".")[0]

            def use(x: Tensor, layer: Any = layer, part: Slice = part) -> None:
                products.add(products.outputs, site, _added(layer, part.index, x.detach()))

            return [(name, "input", use)]
    return []


def _added(layer: nn.Linear | nn.Conv2d, index: np.ndarray, x: Tensor) -> Tensor:
    """What the channels of each head add to the layer's output, (H, numbers)."""
    x = x.movedim(1, -1) if isinstance(layer, nn.Conv2d) else x
    weight = layer.weight.detach().flatten(1)
    return torch.stack([(x[..., own] @ weight[:, own].T).flatten() for own in torch.as_tensor(index, device=x.device)])


def mean_and_largest(similarity: np.ndarray) -> tuple[float, float]:
    """Of the entries off the diagonal; (0, 0) where there is one head."""
    others = similarity[~np.eye(len(similarity), dtype=bool)]
    return (float(others.mean()), float(others.max())) if len(others) else (0.0, 0.0)
