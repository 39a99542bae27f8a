"""Run the quick tests on the lowest versions that pyproject.toml allows.

python benchmarks/oldest.py [arguments for pytest]

The pins are read from pyproject.toml (`name>=lowest` becomes `name==lowest`), so they cannot differ from it. What is
not named there (torchvision, huggingface-hub) is as new as these allow, which is what pip gives a user whose
environment holds old versions. The environment, `.venv-oldest`, is made anew whenever the pins or the tools change.
"""

import argparse
import datetime
import json
import platform
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
VENV = ROOT / ".venv-oldest"
TOOLS = ("pytest", "pytest-xdist", "hypothesis", "jsonschema")
PYTEST = ("-m", "not slow", "-n", "2", "--dist", "loadfile")


def floors(project: dict[str, Any]) -> dict[str, str]:
    """Lowest version of each package that the project depends on, by itself or for an extra of users."""
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    lowest = {}
    for line in (*project["dependencies"], *extras):
        wanted = Requirement(line)
        bounds = [bound.version for bound in wanted.specifier if bound.operator == ">="]
        if len(bounds) != 1:
            raise SystemExit(f"pyproject.toml: {line!r} names no lowest version; write name>=version")
        lowest[wanted.name] = bounds[0]
    return lowest


def tools(project: dict[str, Any]) -> list[str]:
    """What the quick tests need beside the package, as the dev extra asks for it."""
    return [line for line in project["optional-dependencies"]["dev"] if Requirement(line).name in TOOLS]


def install(lowest: dict[str, str], extra: list[str]) -> None:
    """Make the environment, unless it is there with the same pins."""
    stamp = VENV / "pins.txt"
    pins = "".join(f"{name}=={version}\n" for name, version in lowest.items())
    wanted = pins + "".join(f"{line}\n" for line in extra)
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    venv.create(VENV, clear=True, with_pip=True)
    constraints = VENV / "constraints.txt"
    constraints.write_text(pins)
    pip = [VENV / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", "--constraint", constraints]
    subprocess.run([*pip, "--editable", ROOT, *lowest, *extra], check=True)
    stamp.write_text(wanted)


def installed(names: list[str]) -> dict[str, str]:
    """Versions that the environment holds."""
    ask = "import importlib.metadata as m, json, sys; print(json.dumps({n: m.version(n) for n in sys.argv[1:]}))"
    found = subprocess.run([VENV / "bin" / "python", "-c", ask, *names], check=True, capture_output=True, text=True)
    return json.loads(found.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    _, more = parser.parse_known_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest = floors(project)
    install(lowest, tools(project))
    found = installed([*lowest, "torchvision"])
    for name, version in lowest.items():
        if Version(found[name]) != Version(version):
            raise SystemExit(f"{name} {found[name]} is installed, {version} is what pyproject.toml allows")
    print(f"{datetime.date.today()}, Python {platform.python_version()}: ", end="")
    print(", ".join(f"{name} {version}" for name, version in found.items()), flush=True)
    sys.exit(subprocess.run([VENV / "bin" / "python", "-m", "pytest", *(more or PYTEST)], cwd=ROOT).returncode)


if __name__ == "__main__":
    main()
