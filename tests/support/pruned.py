"""What pruning kept of made-up sources."""

from prune_realloc.recipe.plan import SitePlan


def site(width, of):
    return SitePlan(width=width, of=of, reason="made up")


def source(kept, *, blocks=12, heads=6, embed=(384, 384)):
    """A pruned ViT; `kept(axis, depth in 0..1)` is the share that stays."""
    sites = {"embed": site(*embed)}
    for block in range(blocks):
        sites |= {f"blocks.{block}": site(1, 1), f"blocks.{block}.heads": site(heads, heads)}
        for axis, width in (("qk", 64), ("v", 64), ("ffn", 1536)):
            sites[f"blocks.{block}.{axis}"] = site(max(1, round(width * kept(axis, (block + 0.5) / blocks))), width)
    return sites


def papers(axis, depth):
    """Q/K and FFN trimmed most, V kept, all of it narrower in the last part."""
    return {"qk": 0.15, "v": 0.95, "ffn": 0.5}[axis] * (0.45 if depth > 0.75 else 1)


EVEN = source(lambda axis, depth: 0.5)
