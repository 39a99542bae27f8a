"""What every measurement says of itself, and how it is kept."""

import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any


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
    text = json.dumps(record, indent=1)
    print(text)
    if out:
        out.write_text(text + "\n")
