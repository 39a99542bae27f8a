"""The report of one or several run folders: gathered once as plain data, written as HTML, Markdown or JSON."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.files import make_folder, write_files
from prune_realloc.core.structure import INNER_AXES, site_place
from prune_realloc.pages.content import Missing, Page, Panel
from prune_realloc.pages.writers import as_html
from prune_realloc.reporting.asked import (
    UNNAMED,
    asked_of,
    asked_of_cut,
    asked_panel,
    flags_of,
    network_argument,
    reproduce_panel,
)
from prune_realloc.reporting.cut import cut_panel, outcome_panel, sweep_panel
from prune_realloc.reporting.emitted import emitted_panel
from prune_realloc.reporting.found import checked_panel, found_panel
from prune_realloc.reporting.grown import grown_panel
from prune_realloc.reporting.heads import heads_panel
from prune_realloc.reporting.measured import measured_panel
from prune_realloc.reporting.runs import Runs, read_runs
from prune_realloc.reporting.shares import shares_panel
from prune_realloc.reporting.tables import owners
from prune_realloc.reporting.trained import trained_panel
from prune_realloc.results.checked import Check
from prune_realloc.results.figures import retention_figure
from prune_realloc.results.roofline import profile_panel
from prune_realloc.results.summary import summary
from prune_realloc.results.tables import LABELS

DAMAGED = "a file"
"""What is missing on the page where a file could not be read."""


@dataclass(frozen=True, kw_only=True)
class _Section:
    """A part of the report, and what makes what it shows."""

    title: str
    of: str
    """The field of `Runs` that it is made of."""
    panels: Callable[[Runs], Sequence[Panel]]
    command: str
    """`{run}` is the folder of the first analysis, `{source}` the flags of its network and images, `{network}` the
    network alone, as `profile` takes it. Empty: the page does not miss it."""


_SECTIONS = (
    _Section(
        title="What was found",
        of="analyses",
        panels=lambda runs: [found_panel(runs.analyses)],
        command="prune-realloc analyze {source} -o {run}",
    ),
    _Section(
        title="Can the ranking be trusted?",
        of="checks",
        panels=lambda runs: [checked_panel(runs.checks)],
        command="prune-realloc analyze {source} --check -o {run}",
    ),
    _Section(
        title="What was cut, and why; before and after",
        of="cuts",
        panels=lambda runs: [cut_panel(runs.cuts), outcome_panel(runs.cuts, runs.benches)],
        command="prune-realloc plan {run} --keep-macs 0.5 -o half.yaml && prune-realloc apply half.yaml -o "
        "{run}/pruned",
    ),
    _Section(
        title="Measured",
        of="measured",
        panels=lambda runs: [measured_panel(runs.benches, runs.evaluations)],
        command="",
    ),
    _Section(
        title="What other budgets give",
        of="sweeps",
        panels=lambda runs: [sweep_panel(runs.sweeps, runs.cuts)],
        command="prune-realloc sweep {run} -o {run}/curve",
    ),
    _Section(
        title="Where the time goes",
        of="profiles",
        panels=lambda runs: [
            profile_panel(runs.profiles[folder], owner) for folder, owner in owners(runs.profiles).items()
        ],
        command="prune-realloc profile {network} {cut} -o {run}/profile",
    ),
    _Section(
        title="How much attention?",
        of="shares",
        panels=lambda runs: [shares_panel(runs.shares)],
        command="prune-realloc profile {network} --sweep-mhsa 0.1,0.2,0.3,0.4,0.5 -o {run}/shares",
    ),
    _Section(
        title="Heads",
        of="heads",
        panels=lambda runs: [heads_panel(runs.heads)],
        command="prune-realloc heads {source} -o {run}/heads",
    ),
    _Section(
        title="The next network",
        of="variants",
        panels=lambda runs: [emitted_panel(runs.variants)],
        command="prune-realloc emit {run} -o {run}/variants",
    ),
    _Section(
        title="Widths by round",
        of="trails",
        panels=lambda runs: [grown_panel(runs.trails)],
        command="prune-realloc grow {emitted}/realloc --data IMAGES -o {run}/grown",
    ),
    _Section(
        title="Training",
        of="trainings",
        panels=lambda runs: [trained_panel(runs.trainings)],
        command="prune-realloc train {emitted} --data IMAGES -o {run}/trained",
    ),
)


def report(folders: Sequence[str | Path]) -> Page:
    """Everything that run folders show.

    Raises:
        InputError: a folder is not there, is given twice, or none of them holds anything that a verb wrote.
    """
    return gathered(read_runs(folders))


def write_report(analysis: Analysis, folder: str | Path) -> Path:
    """Write `retention.png` and the self-contained `report.html` of an analysis; returns the page's path."""
    folder = Path(folder)
    make_folder(folder)
    write_files(folder, report_files(analysis, folder))
    return folder / "report.html"


def report_files(analysis: Analysis, folder: str | Path, check: Check | None = None) -> dict[str, bytes]:
    """The picture and the page of an analysis that will lie in `folder`, by the names of their files."""
    place = str(folder)
    checks = {} if check is None else {place: check}
    page = gathered(Runs(folders=(place,), analyses={place: analysis}, checks=checks))
    return {"retention.png": retention_figure(analysis), "report.html": as_html(page)}


def gathered(runs: Runs) -> Page:
    """All sections that there is something for; the others by name, with the command that makes them."""
    panels = [asked_panel(runs)]
    missing = [Missing(what=DAMAGED, why=why, command="") for why in runs.damaged]
    for section in _SECTIONS:
        if getattr(runs, section.of):
            panels += section.panels(runs)
        elif section.command:
            why = f"nothing of it lies in {', '.join(runs.folders)}"
            missing.append(Missing(what=section.title, why=why, command=_command(section, runs)))
    named = ", ".join(dict.fromkeys(runs.networks.values())) or ", ".join(runs.folders)
    return Page(
        title=f"What pruning shows of {named}",
        lines=tuple(_lead(runs)),
        panels=(*panels, reproduce_panel(runs)),
        missing=tuple(missing),
    )


def _command(section: _Section, runs: Runs) -> str:
    """For the first analysis; where there is none, for one that is still to be made, of the first network cut."""
    folder, asked = f"{runs.folders[0]}/analysis", None
    if runs.analyses:
        folder, analysis = next(iter(runs.analyses.items()))
        asked = asked_of(analysis)
    elif runs.cuts:
        asked = asked_of_cut(next(iter(runs.cuts.values())).recipe)
    emitted = next((str(Path(variant).parent) for variant in runs.variants), f"{folder}/variants")
    cut = next(iter(runs.cuts), f"{folder}/pruned")
    places = {"run": folder, "emitted": emitted, "cut": cut}
    named = {name: shlex.quote(place) for name, place in places.items()}
    flags, network = (UNNAMED, ["CHECKPOINT"]) if asked is None else (flags_of(*asked), network_argument(*asked))
    texts = {"source": shlex.join(flags), "network": shlex.join(network)}
    return " ".join(section.command.format(**named, **texts).split())


def _lead(runs: Runs) -> Iterator[str]:
    """What matters most; a ranking that is no better than chance before everything else."""
    for check in runs.checks.values():
        if not check.trusted:
            yield check.lines()[0]
    if len(runs.networks) > 1:
        yield f"These folders are of {len(runs.networks)} different networks; each is shown by itself."
    for folder, cut in runs.cuts.items():
        numbers = cut.numbers
        share = numbers["macs"]["achieved"] / numbers["macs"]["source"]
        said = f"{folder} has {share:.1%} of the source's multiply-adds"
        if pair := numbers["top1"]:
            said += (
                f" and is right on {pair['achieved']:.2%} of the images, where the source is on {pair['source']:.2%}"
            )
        elif numbers["agreement"] is not None:
            said += f" and agrees with it on {numbers['agreement']:.2%} of the images"
        yield f"{said}; it was not trained after the cut."
    for folder, analysis in runs.analyses.items():
        if parts := ", ".join(_concentrated(analysis)):
            yield f"{folder}: 90 % of what matters lies in {parts}."


def _concentrated(analysis: Analysis) -> Iterator[str]:
    """For each axis inside blocks: the share of its units that carries 90 % of each site's score."""
    sites = summary(analysis)["sites"]
    for axis in INNER_AXES:
        own = [site for name, site in sites.items() if site_place(name)[0] == axis]
        if own:
            share = sum(site["units90"] for site in own) / sum(site["units"] for site in own)
            yield f"{share:.0%} of the units of {LABELS[axis]}"
