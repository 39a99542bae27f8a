"""Write docs/benchmarks.md: the text of docs/benchmarks.md.jinja with the measurements beside it filled in.

python benchmarks/tables.py
"""

import json
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

DOCS = Path(__file__).parent.parent / "docs"
STUDY = DOCS.parent / "examples" / "reallocation_study"
PAGE = "benchmarks.md"

Record = dict[str, Any]
"""What a script under benchmarks/ or examples/ has measured, as it was written to a JSON file."""


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> str:
    """A table whose first columns, `texts` of them, are aligned to the left and all others to the right."""

    def line(cells: Sequence[str]) -> str:
        return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)

    marks = ["---"] * texts + ["---:"] * (len(head) - texts)
    return "\n".join(map(line, (head, marks, *rows)))


def origin(record: Record) -> str:
    """Command, machine, versions and date of a measurement."""
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return f"`{record['command']}`, {record['machine']}, {versions}, {record['date']}."


def correlations(record: Record) -> str:
    """Rank correlation of each scorer with the measured change of the loss."""
    columns = {
        "change_same": "change, scored images",
        "size_same": "size, scored images",
        "change_other": "change, other images",
        "size_other": "size, other images",
    }
    rows = [
        (axis, scorer, *(f"{row[key]:.2f}" for key in columns))
        for axis, scorers in record["table"].items()
        for scorer, row in scorers.items()
    ]
    return table(("axis", "scorer", *columns.values()), rows, texts=2)


def accuracy(record: Record) -> str:
    """Top-1 of each way to cut, one column for each share; the share that was reached in brackets."""
    found: dict[str, dict[float, str]] = {}
    for kind, who, keys in (
        ("torch_pruning", "torch-pruning", ("mode", "score")),
        ("ours", "ours", ("variant",)),
    ):
        for row in record[kind]:
            name = f"{who}: " + ", ".join(row[key] for key in keys)
            cell = f"{row['top1']:.2f} ({row['keep_macs']:.3f})" if "top1" in row else "error"
            found.setdefault(name, {})[row["requested"]] = cell
    shares = sorted({row["requested"] for row in record["ours"]}, reverse=True)
    rows = [(name, *(cells[share] for share in shares)) for name, cells in found.items()]
    return table(("", *(f"at {share}" for share in shares)), rows)


def losses(record: Record, shares: Sequence[float]) -> str:
    """Points of top-1 that torch-pruning's best and our default lose at each share."""
    dense, parts = record["dense"]["top1"], []
    for share in shares:
        theirs = max(row.get("top1", 0.0) for row in record["torch_pruning"] if row["requested"] == share)
        ours = [row for row in record["ours"] if row["requested"] == share and "default" in row["variant"]]
        parts.append(f"{dense - theirs:.2f} and {dense - ours[0]['top1']:.2f} at {share}")
    return ", ".join(parts)


def cutting_times(record: Record) -> str:
    """Seconds from a loaded to a pruned network, beside those of torch-pruning's faster scope."""
    steps, theirs = ("sites", "planning", "cut"), ("graph", "ranking", "pruning")
    more = ("second moments", "rotation", "damage curves", "refit")

    def total(row: dict[str, float], names: Sequence[str]) -> float:
        return sum(row[name] for name in names)

    def sum_of(row: dict[str, float], names: Sequence[str]) -> str:
        return f"{' + '.join(f'{row[name]:.2f}' for name in names)} = {total(row, names):.2f}"

    rows = []
    for model, row in record["models"].items():
        scopes, extra = row["torch_pruning"], row["compensation"]
        scope = min(("local", "global"), key=lambda name: total(scopes[name], theirs))
        ratio = total(row["ours"], steps) / total(scopes[scope], theirs)
        rest = "" if extra is None else ", ".join(f"{extra[k]:.1f}" for k in more) + f" ({extra['images']} images)"
        both = (sum_of(row["ours"], steps), f"{sum_of(scopes[scope], theirs)} ({scope})")
        rows.append(f"| {model} | {both[0]} | {both[1]} | {ratio:.2f} | {rest} |")
    head = (
        f"| model | ours: {' + '.join(steps)} | torch-pruning: {' + '.join(theirs)} | ratio | "
        "ours: second moments, rotation, damage curves, refit |"
    )
    return "\n".join((head, "| --- | ---: | ---: | ---: | --- |", *rows))


def network_speed(record: Record) -> str:
    """Images per second and ratio to timm of every form, one column for each network."""
    models = record["models"]
    rows = []
    for kind, what in (("inference", ""), ("training", "training step: ")):
        for form in next(iter(models.values()))[kind]:
            measured = (row[kind][form] for row in models.values())
            rows.append((what + form, *(f"{m['images_per_second']:.0f} ({m['speedup']:.2f})" for m in measured)))
    return table(("", *models), rows)


def settings(record: Record) -> str:
    """Images, epochs and batch size of each data set."""

    def line(name: str, result: Record) -> str:
        images, given = result["trained_on"], result["settings"]
        count = images if images == "all" else f"{images:,}"
        return f"{name}: {count} training images, {given['epochs']} epochs, batches of {given['batch_size']}"

    return "; ".join(line(name, result) for name, result in record["results"].items())


def read_damages(record: Record, kind: str) -> str:
    """Predicted damage at which the sources' analyses were read for the networks of that kind."""
    found = [
        next(read["damage"] for network, read in result["read"].items() if network.endswith(kind))
        for result in record["results"].values()
    ]
    return " and ".join(f"{damage:.0e}" for damage in found)


def build(record: Record) -> str:
    """How the package is built, before and after."""

    def cell(value: Any) -> str:
        if isinstance(value, dict):
            return ", ".join(f"{name} {size}" for name, size in value.items())
        return str(len(value) if isinstance(value, list) else value)

    before, after = record["before"], record["after"]
    rows = [(name, cell(before[name]), cell(after[name])) for name in after]
    return table(("", f"before ({record['commit']})", "after"), rows)


def group(record: Record, data: str, name: str) -> Record:
    """The runs of one network of the study."""
    return next(found for found in record["results"][data]["groups"] if found["name"] == name)


def records() -> dict[str, Record]:
    """Every measurement under the name of its file; those of the study with the table that it wrote."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(DOCS.glob("*.json"))}
    for phase in ("final", "choose"):
        text = (STUDY / f"{phase}.md").read_text()
        found[phase] = json.loads((STUDY / f"{phase}.json").read_text()) | {"table": text}
    return found


def render() -> str:
    env = Environment(loader=FileSystemLoader(DOCS), undefined=StrictUndefined, keep_trailing_newline=True)
    env.filters |= {
        "count": "{:,}".format,
        "fixed": lambda value, digits: f"{value:.{digits}f}",
        "percent": lambda share: f"{100 * share:.2f}",
        "power": "{:.0e}".format,
    }
    shown = (origin, correlations, accuracy, losses, cutting_times, network_speed, settings, read_damages, build, group)
    functions = {function.__name__: function for function in shown}
    return env.get_template(f"{PAGE}.jinja").render(records() | functions | {"median": statistics.median_high})


def main() -> None:
    (DOCS / PAGE).write_text(render())


if __name__ == "__main__":
    main()
