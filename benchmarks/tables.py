"""Write docs/benchmarks.md and docs/support.md: the texts of their .jinja with the measurements beside them filled in.

python benchmarks/tables.py
"""

import json
import statistics
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

DOCS = Path(__file__).parent.parent / "docs"
STUDY = DOCS.parent / "examples" / "reallocation_study"
PAGES = ("benchmarks.md", "support.md")

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


def losses_of_networks(record: Record) -> str:
    """Top-1 and what is lost of each network, ours and torch-pruning's."""
    rows = []
    for name, found in record["networks"].items():
        every = [
            *found["ours"],
            *(row | {"variant": f"torch-pruning, {row['mode']}"} for row in found["torch_pruning"]),
        ]
        for variant in dict.fromkeys(row["variant"] for row in every):
            own = [row for row in every if row["variant"] == variant]
            rows.append([name, variant, *(top1_cell(row, found["dense"]) for row in own)])
    shares = [f"{share:g}" for share in (0.7, 0.5, 0.3)]
    return table(["network", "how", *shares], rows, texts=2)


def kept_more(record: Record) -> str:
    """Points lost, KL in nats and seconds of each variant: means over the draws that all variants of the row have."""
    found: dict[tuple[str, float], dict[str, dict[int, Record]]] = {}
    for row in record["rows"]:
        variants = found.setdefault((row["network"], row["requested"]), {})
        variants.setdefault(row["variant"], {})[row["seed"]] = row
    rows = []
    for (network, share), variants in sorted(found.items(), key=lambda each: (each[0][0], -each[0][1])):
        ours = [set(own) for name, own in variants.items() if not name.startswith("torch-pruning")]
        for variant, of_draw in variants.items():
            draws = set(of_draw).intersection(*ours)  # torch-pruning has one
            top1, seconds = (statistics.mean(of_draw[d][key] for d in draws) for key in ("top1", "seconds"))
            distances = [of_draw[d]["kl"] for d in draws if of_draw[d]["kl"] is not None]
            kl = f"{statistics.mean(distances):.2g}" if distances else ""
            lost = f"{record['dense'][network] - top1:.2f}"
            rows.append((network, f"{share:g}", variant, lost, kl, f"{seconds:.0f}", str(len(draws))))
    return table(("network", "kept", "how", "points lost", "KL", "s", "draws"), rows, texts=3)


def images_added(record: Record) -> str:
    """Points lost by the number of calibration images, with what the halves say, seconds and memory."""
    head = ("network", "kept", "images", "points lost", "fitted half", "other half", "apart", "s", "MB")
    ordered = sorted(record["rows"], key=lambda row: (row["network"], -row["requested"], row["samples"]))
    rows = [
        (
            row["network"],
            f"{row['requested']:g}",
            f"{row['samples']:,}",
            f"{record['dense'][row['network']] - row['top1']:.2f}",
            f"{100 * row['fitted']:.2f} %",
            f"{100 * row['unseen']:.2f} %",
            f"{100 * (row['fitted'] - row['unseen']):.2f}",
            f"{row['examination_cpu_seconds']:.0f} + {row['cpu_seconds']:.0f}",
            f"{row['megabytes']:,}",
        )
        for row in ordered
    ]
    return table(head, rows)


def forecasts(record: Record) -> str:
    """The foretold damage, the KL on test images and their ratio; a row for each network and compensation."""
    shares = sorted({row["requested"] for row in record["rows"]}, reverse=True)
    found: dict[tuple[str, str], dict[float, str]] = {}
    for row in record["rows"]:
        cell = f"{row['predicted']:.0e}, {row['test']:.0e} ({row['test'] / row['predicted']:.2g})"
        found.setdefault((row["network"], row["how"]), {})[row["requested"]] = cell
    rows = [(*key, *(cells[share] for share in shares)) for key, cells in found.items()]
    return table(("network", "compensation", *(f"{share:g}" for share in shares)), rows, texts=2)


def unseen_over_fitted(record: Record) -> str:
    """By how much the KL on images that layers were not fitted on is above that on those that were: median and most."""
    ratios = [row["unseen"] / row["fitted"] for row in record["rows"] if row["how"] == "default"]
    return f"{statistics.median(ratios):.1f} times (at most {max(ratios):.0f})"


def without_half(record: Record) -> str:
    """Points lost by each network without half of one axis; the mean over the draws."""
    rows = []
    for network, found in record["networks"].items():
        for how in dict.fromkeys(row["how"] for row in found["rows"]):
            own = [row for row in found["rows"] if row["how"] == how]
            lost = found["dense"] - statistics.mean(row["top1"] for row in own)
            kept = (f"{own[0][kind]:.3f}" for kind in ("keep_macs", "keep_params"))
            rows.append((network, how, *kept, f"{found['dense']:.2f}", f"{lost:.2f}"))
    return table(("network", "what goes", "multiply-adds", "parameters", "dense", "points lost"), rows, texts=2)


def fused_speed(record: Record) -> str:
    """Speed over that of the source, by network, widths and variant; one column for each batch size."""
    found: dict[tuple[str, ...], dict[int, str]] = {}
    for row in record["rows"]:
        if row["widths"] is not None:
            widths = ", ".join(f"{axis} {width}" for axis, width in row["widths"].items())
            own = found.setdefault((row["network"], widths, row["variant"].split(", ")[1]), {})
            own[row["batch"]] = f"{row['speedup']:.2f}"
    batches = sorted({batch for own in found.values() for batch in own})
    rows = [[*key, *(own[batch] for batch in batches)] for key, own in found.items()]
    return table(["network", "widths", "attention", *(f"batch {batch}" for batch in batches)], rows, texts=3)


def predicted_times(record: Record) -> str:
    """How far predicted times are from measured ones, a row for each network, runtime and batch size."""
    rows = []
    for row in record["rows"]:
        errors, ratios = ([abs(plan[kind]) for plan in row["plans"]] for kind in ("error", "ratio_error"))
        cells = (f"{100 * of(each):.1f}" for each in (errors, ratios) for of in (statistics.median, max))
        spent = (str(row["table_networks"]), f"{row['table_seconds']:.0f}")
        runtime = row["runtime"] + (", kept" if row["memory_kept"] else "")
        rows.append((row["network"], runtime, str(row["batch"]), *spent, f"{row['source_ms']:.1f}", *cells))
    head = ("network", "runtime", "batch", "networks timed", "s", "source, ms")
    errors = ("median error, %", "largest", "of the ratio: median, %", "largest")
    return table((*head, *errors), rows, texts=2)


def speeds_per_mac(record: Record) -> str:
    """Share of the multiply-adds over share of the time; a row for each network, runtime, batch size and way."""
    shares = sorted({row["share"] for row in record["rows"]}, reverse=True)
    found: dict[tuple[str, ...], dict[float, str]] = {}
    for row in record["rows"]:
        batch = f"{row['batch']}, memory kept" if row.get("memory_kept") else str(row["batch"])
        key = (row["network"], row["runtime"], batch, row["way"])
        found.setdefault(key, {})[row["share"]] = f"{row['of_ideal']:.2f} ({row['macs']:.2f}, {row['time']:.2f})"
    rows = [(*key, *(cells.get(share, "") for share in shares)) for key, cells in found.items()]
    return table(("network", "runtime", "batch", "planned", *(f"{share:g}" for share in shares)), rows, texts=4)


def equally_fast(record: Record) -> str:
    """Top-1 of two plans that take the same time; a row for each network, share and draw."""
    rows = []
    for row in record["rows"]:
        top1, spent, kept = row["top1"], row["keep_time"], row["keep_macs"]
        cells = (f"{top1[way]:.2f} ({spent[way]:.2f}, {kept[way]:.2f})" for way in ("time", "macs"))
        rows.append((row["network"], str(row["seed"]), f"{row['share']:g}", f"{top1['source']:.2f}", *cells))
    head = ("network", "draw", "of the time", "source", "planned by time", "by multiply-adds")
    return table(head, rows, texts=1)


def faults_cost(record: Record) -> str:
    """Milliseconds and faults of a pass by batch size, and microseconds of a fault."""
    rows = []
    for row in record["rows"]:
        default, kept = row["default"], row["kept"]
        each = "" if row["microseconds"] is None else f"{row['microseconds']:.1f}"
        counts = (f"{default['ms']:.1f}", f"{default['faults']:,}", f"{kept['ms']:.1f}", f"{kept['faults']:,}")
        rows.append((str(row["batch"]), *counts, each))
    head = ("batch", "ms", "page faults", "ms, memory kept", "page faults", "microseconds for one")
    return table(head, rows, texts=0)


def run_times(record: Record) -> str:
    """Times of a pass, and which share of it is limited by what."""
    head = ("network", "batch", "ms", "with the profiler", "memory-bound", "compute-bound")
    rows = []
    for row in record["rows"]:
        shares = (f"{row[name]:.1%}" for name in ("memory_bound", "compute_bound", "reshape_elementwise_mhsa"))
        rows.append((row["model"], str(row["batch_size"]), f"{row['ms']:.2f}", f"{row['ms_profiled']:.2f}", *shares))
    return table((*head, "reshape and element-wise in MHSA"), rows)


def peaks(record: Record) -> str:
    """Megabytes by the formula, and alive."""
    rows = [
        (
            row["network"],
            f"cut {row['cut']}" if row["cut"] else "source",
            str(row["batch"]),
            *(f"{row[kind] / 1e6:.1f}" for kind in ("formula", "alive")),
            f"{row['error']:+.1%}",
        )
        for row in record["rows"]
    ]
    return table(("network", "", "batch", "formula", "alive", "formula over alive"), rows, texts=2)


def gain(record: Record, network: str) -> str:
    """Points by which planned widths are above uniform ones at half of the multiply-adds, both compensated."""
    found = {row["variant"]: row["top1"] for row in record["networks"][network]["ours"] if row["requested"] == 0.5}
    kind = "rotation and refit"
    return f"{found[f'{kind} (the default)'] - found[f'{kind}, uniform widths']:+.2f}"


def top1_cell(row: Record, dense: float) -> str:
    """Top-1 in per cent, and in points what is lost."""
    return "no" if "error" in row else f"{row['top1']:.2f} ({row['top1'] - dense:+.2f})"


def network_speed(record: Record) -> str:
    """Images per second and ratio to timm of every form, by batch, one column for each network."""
    models = record["models"].values()
    first = next(iter(models))
    rows = []
    for batch, passes in first["inference"].items():
        found = [row["inference"][batch] for row in models]
        rows += [(batch, form, *_speeds(each["forms"][form] for each in found)) for form in passes["forms"]]
        rows.append((batch, "deploy form over its convolutions", *(f"{each['over_limit']:.2f}" for each in found)))
    for form in first["training"]:
        rows.append(
            (str(record["training_batch"]), f"training step: {form}", *_speeds(row["training"][form] for row in models))
        )
    return table(("batch", "", *record["models"]), rows, texts=2)


def largest_difference(record: Record) -> float:
    """Of any form to timm's output, as a share of the largest output."""
    return max(each["largest_difference"] for row in record["models"].values() for each in row["inference"].values())


def _speeds(measured: Iterable[Record]) -> list[str]:
    cells = []
    for form in measured:
        there = f"; {form['over_timm_there']:.2f}" if "over_timm_there" in form else ""
        cells.append(f"{form['images_per_second']:.0f} ({form['speedup']:.2f}{there})")
    return cells


def training_speed(record: Record) -> str:
    """Images per second of `train` for each recipe, and their share of the bare steps' beside it, with quartiles."""
    found = dict(record["images_per_second"])
    rows = [("bare steps", f"{found.pop('bare')['median']:.0f}", "")]
    for name, values in found.items():
        share = values["over_bare"]
        low, high = share["quartiles"]
        rows.append((name, f"{values['train']['median']:.0f}", f"{share['median']:.2f} ({low:.2f} to {high:.2f})"))
    return table(("", "images/s", "of bare steps"), rows)


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


def architectures(record: Record) -> str:
    """A row for each network that could be analysed: what it has, and what came of each step."""
    head = ("network", "class", "axes", "cut = mask", "half", "loaded", "ONNX", "refit", "s", "MB", "left whole")
    rows = [architecture(name, row) for name, row in record["networks"].items() if is_analysed(row)]
    return table(head, rows, texts=3)


def is_analysed(row: Record) -> bool:
    return "error" not in row and "error" not in row["sites"]


def architecture(name: str, row: Record) -> Sequence[str]:
    sites, half = row["sites"], row["half"]
    args = "".join(f" {key}={value}" for key, value in row["args"].items())
    return (
        f"`{name}`{args}",
        row["class"],
        ", ".join(f"{count} {axis}" for axis, count in sites["axes"].items()) or "none",
        largest(row["cut"]),
        reached(half) if "share" in half else "no",
        outcome(half.get("loaded")),
        outcome(half.get("onnx")),
        f"{sites['fitted']} of {sites['branches']}" + ("" if half.get("refitted") else ", not tried"),
        f"{row['seconds']:.1f}",
        str(row["memory"]),
        f"{100 * sites['whole'] / row['params']:.1f} %",
    )


def reached(half: Record) -> str:
    """The share, and of which axes where it is not of the default ones alone."""
    named = ["all axes"] if half["axes"] == "all" else []
    named += [f"without {axis}" for axis in half.get("without", [])]
    return f"{half['share']:.3f}" + (f" ({', '.join(named)})" if named else "")


def largest(cuts: Record) -> str:
    """The largest difference of all axes but the streams, whose norms see other statistics."""
    found = [one["difference"] for axis, one in cuts.items() if axis != "embed" and not one["notes"]]
    numbers = [value for value in found if not isinstance(value, dict)]
    wrong = [axis for axis, one in cuts.items() if isinstance(one["difference"], dict)]
    return (f"{max(numbers):.0e}" if numbers else "") + "".join(f", not {axis}" for axis in wrong)


def outcome(value: Any) -> str:
    """A difference as a number, a failure as "no"."""
    return "no" if value is None or isinstance(value, dict) else f"{value:.0e}"


def failures(record: Record) -> str:
    """What could not be done, of which network, and why."""
    found = [(f"`{name}`", step, why) for name, row in record["networks"].items() for step, why in failed(row)]
    return table(("network", "step", "why"), found, texts=3)


def failed(row: Record) -> Iterator[tuple[str, str]]:
    if "error" in row:
        yield "all", row["error"]
    elif "error" in row["sites"]:
        yield "analysis", row["sites"]["error"]
    else:
        for axis, one in row["cut"].items():
            if isinstance(one["difference"], dict):
                yield f"cut of {axis}", one["difference"]["error"]
            elif axis != "embed" and not one["notes"] and one["difference"] > 1e-5:
                yield f"cut of {axis}", f"differs from the masked network by {one['difference']:.0e}"
        if "error" in row["half"]:
            yield "half of the multiply-adds", row["half"]["error"]
        for step in ("refit", "loaded", "onnx"):
            if isinstance(row["half"].get(step), dict):
                yield step, row["half"][step]["error"]


def tally(record: Record) -> str:
    """How many networks came how far."""
    rows = [row for row in record["networks"].values() if is_analysed(row)]
    half = [row["half"] for row in rows if "share" in row["half"]]
    near = sum(0.495 <= one["share"] <= 0.5 for one in half)
    files = sum(not isinstance(one["loaded"], dict) for one in half)
    onnx = sum(not isinstance(one["onnx"], dict) for one in half)
    refitted = sum(one["refitted"] for one in half)
    return (
        f"Of {len(record['networks'])} networks {len(rows)} are analysed, {len(half)} are cut to half of their "
        f"multiply-adds ({near} within 1 %); of these {refitted} are refitted, {files} saved "
        f"and loaded with equal outputs, {onnx} exported"
    )


def unread(record: Record) -> str:
    """Which networks lack what `emit` reads by rule `kept`."""
    rows = {name: row["sites"]["axes"] for name, row in record["networks"].items() if is_analysed(row)}
    lacking = (
        ("no attention that can be cut", {"qk", "v"}),
        ("no FFN that can be cut", {"ffn", "hidden"}),
    )
    found = ((what, [f"`{name}`" for name in rows if axes.isdisjoint(rows[name])]) for what, axes in lacking)
    named = [f"{', '.join(names)} ({what})" for what, names in found if names]
    return f"Of the networks above rule `kept` refuses {'; '.join(named)}."


def records() -> dict[str, Record]:
    """Every measurement under the name of its file; those of the study with the table that it wrote."""
    found = {path.stem: json.loads(path.read_text()) for path in sorted(DOCS.glob("*.json"))}
    for phase in ("final", "choose"):
        text = (STUDY / f"{phase}.md").read_text()
        found[phase] = json.loads((STUDY / f"{phase}.json").read_text()) | {"table": text}
    return found


def render(page: str) -> str:
    env = Environment(loader=FileSystemLoader(DOCS), undefined=StrictUndefined, keep_trailing_newline=True)
    env.filters |= {
        "count": "{:,}".format,
        "fixed": lambda value, digits: f"{value:.{digits}f}",
        "percent": lambda share: f"{100 * share:.2f}",
        "power": "{:.0e}".format,
    }
    shown = (
        origin,
        correlations,
        accuracy,
        losses,
        gain,
        losses_of_networks,
        kept_more,
        images_added,
        forecasts,
        unseen_over_fitted,
        without_half,
        fused_speed,
        predicted_times,
        speeds_per_mac,
        equally_fast,
        faults_cost,
        run_times,
        peaks,
        cutting_times,
        network_speed,
        largest_difference,
        training_speed,
        settings,
    )
    read = (read_damages, build, group)
    support = (architectures, failures, tally, unread)
    functions = {function.__name__: function for function in (*shown, *read, *support)}
    return env.get_template(f"{page}.jinja").render(records() | functions | {"median": statistics.median_high})


def main() -> None:
    for page in PAGES:
        (DOCS / page).write_text(render(page))


if __name__ == "__main__":
    main()
