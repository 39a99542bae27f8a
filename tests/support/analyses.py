"""Analyses by hand-made curves; what they cost and lose is counted by closed formulas of its own."""

import re
from unittest import mock

import numpy as np

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import Term
from prune_realloc.planning import choices

# B blocks, D embed, H heads, K q/k and value width per head, F ffn width, N tokens
TINY = dict(B=2, D=16, H=2, K=4, F=8, N=5)  # multiples: embed 4, heads 1, qk and v 1, ffn 2


DEIT_S = dict(B=12, D=384, H=6, K=64, F=1536, N=197)


VIT_L = dict(B=24, D=1024, H=16, K=64, F=4096, N=197)


INNER = ("qk", "v", "ffn")


UNSAID = dict(
    scorer="fisher", unit="nats", samples=8, seed=0, model={"architecture": "toy"}, data=None, stability={}
)  # what an analysis made by hand has to have, and does not matter


PATCH, CLASSES = 768, 1000


def block_terms(block, N):
    whole = f"blocks.{block}"
    heads, qk, v, ffn = (f"{whole}.{axis}" for axis in ("heads", "qk", "v", "ffn"))
    return [
        Term(component="qk", sites=("embed", heads, qk), params=2, macs=2 * N),
        Term(component="qk", sites=(heads, qk), params=2, macs=N * N),
        Term(component="v", sites=("embed", heads, v), params=1, macs=N),
        Term(component="v", sites=(heads, v), params=1, macs=N * N),
        Term(component="proj", sites=("embed", heads, v), params=1, macs=N),
        Term(component="proj", sites=("embed", whole), params=1),
        Term(component="ffn", sites=("embed", ffn), params=2, macs=2 * N),
        Term(component="ffn", sites=(ffn,), params=1),
        Term(component="ffn", sites=("embed", whole), params=1),
        Term(component="norm", sites=("embed", whole), params=4),
    ]


def macs_of(widths, N):
    """The same cost as one formula."""
    D, total = widths["embed"], (PATCH * (N - 1) + CLASSES) * widths["embed"]
    for i in range(sum(re.fullmatch(r"blocks\.\d+", name) is not None for name in widths)):
        H, K, V, F = (widths[f"blocks.{i}.{axis}"] for axis in ("heads", "qk", "v", "ffn"))
        total += (2 * N * D + N * N) * H * (K + V) + 2 * N * D * F
    return total


def random_curve(rng, width, convex=True):
    each = rng.exponential(size=width) ** 2
    if convex:
        each = np.sort(each)[::-1]  # the first unit matters most
    each *= rng.uniform(0.1, 1) / each.sum()
    return np.append(each[::-1].cumsum()[::-1], 0.0)


def make_analysis(*, B, D, H, K, F, N, seed=0, convex=True, curves=None, **changes):
    """A transformer as `families/vit.py` declares it, with random curves, or those of `curves`."""
    rng = np.random.default_rng(seed)
    terms = [Term(component="stem", sites=("embed",), params=PATCH + 2 + N, macs=PATCH * (N - 1))]
    widths = {"embed": D}
    for i in range(B):
        here = f"blocks.{i}"
        widths |= {here: 1, f"{here}.heads": H, f"{here}.qk": K, f"{here}.v": K, f"{here}.ffn": F}
        terms += block_terms(i, N)
    terms += [
        Term(component="norm", sites=("embed",), params=2),
        Term(component="head", sites=("embed",), params=CLASSES, macs=CLASSES),
        Term(component="head", params=CLASSES),
    ]
    damage = {name: random_curve(rng, width, convex) for name, width in widths.items()} | (curves or {})
    groups = {name: H if name.endswith((".qk", ".v")) else 1 for name in widths}
    values = dict(
        scores={name: np.ones(width * groups[name]) for name, width in widths.items()},
        damage=damage,
        widths=widths,
        groups=groups,
        terms=tuple(terms),
        **UNSAID,
    )
    return Analysis(**(values | changes))


def widths_of(planned):
    return {name: site.width for name, site in planned.sites.items()}


def of_axis(planned, axis):
    return [site.width for name, site in planned.sites.items() if name.split(".")[-1] == axis]


def damage_of(analysis, widths):
    """By the definition: every site's curve, but of a block that is gone only its own."""
    total = analysis.damage["embed"][widths["embed"]]
    for i in range(sum(name.endswith(".ffn") for name in widths)):
        inside = [f"blocks.{i}.{axis}" for axis in ("heads", "qk", "v", "ffn")]
        lost = analysis.damage[f"blocks.{i}"][0] if not widths[f"blocks.{i}"] else 0
        total += lost or sum(analysis.damage[name][widths[name]] for name in inside)
    return total


def any_spending():
    """Tiny networks are too coarse for a hundredth of the budget."""
    return mock.patch.object(choices, "TOLERANCE", 1.0)


def stage_terms(stage, tokens):
    """The stem before the first stage, a patch merging before each other one."""
    here, before = f"stages.{stage}.embed", f"stages.{stage - 1}.embed"
    if not stage:
        return [Term(component="stem", sites=(here,), params=51, macs=48 * tokens)]
    return [
        Term(component="merge", sites=(before, here), params=4, macs=4 * tokens),
        Term(component="norm", sites=(before,), params=8),
    ]


def window_block_terms(block, stream, tokens, window):
    whole = f"blocks.{block}"
    heads, qk, v, ffn = (f"{whole}.{axis}" for axis in ("heads", "qk", "v", "ffn"))
    return [
        Term(component="qk", sites=(stream, heads, qk), params=2, macs=2 * tokens),
        Term(component="qk", sites=(heads, qk), params=2, macs=tokens * window),
        Term(component="v", sites=(stream, heads, v), params=2, macs=2 * tokens),
        Term(component="v", sites=(heads, v), params=1, macs=tokens * window),
        Term(component="ffn", sites=(stream, ffn), params=2, macs=2 * tokens),
        Term(component="ffn", sites=(ffn,), params=1),
        Term(component="norm", sites=(stream, whole), params=6),
    ]


def make_staged(*, embed, heads, depths, head, side, window, seed=0, convex=True, **changes):
    """A windowed transformer in stages, each with a stream of its own, with random curves."""
    rng = np.random.default_rng(seed)
    widths, groups, terms = {}, {}, []
    for stage, (D, H) in enumerate(zip(embed, heads, strict=True)):
        stream, tokens = f"stages.{stage}.embed", (side >> stage) ** 2
        widths[stream] = D
        terms += stage_terms(stage, tokens)
        for block in range(sum(depths[:stage]), sum(depths[: stage + 1])):
            here = f"blocks.{block}"
            widths |= {here: 1, f"{here}.heads": H, f"{here}.qk": head, f"{here}.v": head, f"{here}.ffn": 4 * D}
            groups |= {f"{here}.qk": H, f"{here}.v": H}
            terms += window_block_terms(block, stream, tokens, window)
    terms.append(Term(component="head", sites=(f"stages.{len(embed) - 1}.embed",), params=CLASSES, macs=CLASSES))
    values = dict(
        scores={name: np.ones(width) for name, width in widths.items()},
        damage={name: random_curve(rng, width, convex) for name, width in widths.items()},
        widths=widths,
        groups={name: groups.get(name, 1) for name in widths},
        terms=tuple(terms),
        **UNSAID,
    )
    return Analysis(**(values | changes))
