"""Latency tables of a made-up machine, whose times follow a law that is stated here by its own arithmetic."""

import re

import numpy as np

from prune_realloc.core.latency import Conditions, LatencyTable, Measured

LAW = dict(network=3.0, block=0.2, macs=2e-9, params=5e-7, unlike=0.0)
"""Milliseconds of the network, of a block, of a multiply-add, of a parameter, and of a head with unlike widths."""
MADE_UP = Conditions(device="made up", device_type="cpu", runtime="eager", threads=1, batch=1, versions={"torch": "1"})


def time_by_law(terms, widths, *, network, block, macs, params, unlike):
    """Milliseconds; stem and head take next to none."""
    total = network
    gone = {name for name, width in widths.items() if re.fullmatch(r"blocks\.\d+", name) and not width}
    for name, width in widths.items():
        if re.fullmatch(r"blocks\.\d+", name) and width:
            total += block
            if widths.get(f"{name}.qk") != widths.get(f"{name}.v"):
                total += unlike * widths[f"{name}.heads"]
    for term in terms:
        if not gone & {".".join(site.split(".")[:2]) for site in term.sites}:
            units = np.prod([float(widths[site]) for site in term.sites])
            inside = 1.0 if any(site.startswith("blocks.") for site in term.sites) else 1e-3
            total += inside * units * (term.macs * macs + term.params * params)
    return float(total)


def drawn(widths, rng, drop=True):
    """Random widths; now and then of all heads alike, and without some blocks."""
    found = {name: int(rng.integers(1, width + 1)) for name, width in widths.items()}
    for name in widths:
        if re.fullmatch(r"blocks\.\d+", name):
            found[name] = 1
            if rng.random() < 0.3:
                found[f"{name}.v"] = found[f"{name}.qk"] = min(found[f"{name}.qk"], widths[f"{name}.v"])
            if drop and rng.random() < 0.2 and name != "blocks.0":
                found |= {other: 0 for other in widths if other == name or other.startswith(f"{name}.")}
    return found


def make_table(analysis, count=40, noise=0.0, **law):
    """A table of the network of an analysis, on a machine with that law."""
    rng = np.random.default_rng(0)
    every = [dict(analysis.widths), *(drawn(analysis.widths, rng) for _ in range(count))]
    times = [time_by_law(analysis.terms, widths, **(LAW | law)) for widths in every]
    measured = [
        Measured(widths=widths, ms=ms * (1 + noise * float(rng.standard_normal())), spread=0.01)
        for widths, ms in zip(every, times, strict=True)
    ]
    return LatencyTable(
        conditions=MADE_UP,
        input_shape=(3, 224, 224),
        terms=analysis.terms,
        modules=analysis.model.get("modules", ""),
        measured=tuple(measured),
        seconds=1.0,
    )
