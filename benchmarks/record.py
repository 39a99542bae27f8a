"""What every measurement says of itself, and how it is kept."""

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from prune_realloc.core.files import write_file


def origin(
    threads: int, packages: tuple[str, ...] = ("torch", "timm", "torch-pruning"), device: str = "cpu"
) -> dict[str, Any]:
    """Machine, versions and date of a measurement."""
    import torch  # it takes seconds, and what counts lines of code needs none

    gpu = f", {torch.cuda.get_device_name()}" if device == "cuda" else ""
    return {
        "machine": f"{platform.machine()}, {threads} threads{gpu}",
        "versions": {name: version(name) for name in packages},
        "date": time.strftime("%Y-%m-%d"),
    }


def keep(record: dict[str, Any], out: Path | None) -> None:
    """Print the record, and write it where `out` says."""
    print(json.dumps(record, indent=1))
    if out:
        put(record, out)


def put(record: dict[str, Any], out: Path) -> None:
    """Write the record whole: a run that is killed meanwhile leaves the old one, from which the next goes on."""
    write_file(out, (json.dumps(record, indent=1) + "\n").encode())


def resumed(out: Path, empty: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """The record in `out`, or `empty`, to go on with under the origin `now`.

    What is measured next is of that origin; a row that was measured under another one keeps it.
    """
    record = json.loads(out.read_text()) if out.exists() else empty
    then = {name: record[name] for name in now if name in record}
    kept = {} if then == now else then
    return record | now | {"rows": [kept | row for row in record["rows"]]}
