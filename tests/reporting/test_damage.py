"""Whatever a file of a run says in valid JSON: a page, or one line that names what is wrong; never a traceback."""

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from support.run_folder import make_run_folder

from prune_realloc.core.errors import InputError
from prune_realloc.pages.writers import as_html, as_json, as_markdown
from prune_realloc.reporting.report import DAMAGED, report

_EVERY: tuple[Any, ...] = (None, "text", ["text"], 0)
_SLOW: tuple[Any, ...] = (None,)
"""Where a recipe is read, whose every field has tests of its own, or a network is built."""
FILES = {
    "analysis/analysis.json": _EVERY,
    "analysis/check.json": _EVERY,
    "heads.json": _EVERY,
    "profile.json": _EVERY,
    "pruned/bench.json": _EVERY,
    "pruned/eval.json": _EVERY,
    "sandwiches.json": _EVERY,
    "sweep.json": _EVERY,
    "trail.json": _EVERY,
    "pruned/result.json": _EVERY,
    "pruned/recipe.yaml": _SLOW,
    "variants/realloc/recipe.yaml": _SLOW,
    "variants/realloc/latency.json": _EVERY,
    "finished/result.json": (None, ["text"]),
    "finished/last/config.json": _SLOW,
}
"""What is changed -> to what."""
BESIDE = {"sweep.json": "80.yaml"}
"""What is read with a file, where that is not its folder."""


def places(content: Any) -> Iterator[tuple[str | int, ...]]:
    """Every field, and the first entry of every list, as the keys on the way to it."""
    steps = list(content.items()) if isinstance(content, dict) else []
    steps += list(enumerate(content))[:1] if isinstance(content, list) else []
    for key, value in steps:
        yield (key,)
        yield from ((key, *further) for further in places(value))


def changed(content: Any, place: tuple[str | int, ...], value: Any) -> Any:
    """A copy in which `value` stands at the place."""
    if not place:
        return value
    copied = content.copy()
    copied[place[0]] = changed(copied[place[0]], place[1:], value)
    return copied


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return make_run_folder(tmp_path_factory.mktemp("run") / "all")


@pytest.mark.parametrize("name", FILES)
def test_a_field_of_another_type_is_shown_or_named_in_one_line(run_folder, tmp_path, name):
    for part in filter(None, (name.split("/")[0], BESIDE.get(name))):
        (shutil.copytree if (run_folder / part).is_dir() else shutil.copy)(run_folder / part, tmp_path / part)
    content = yaml.safe_load((tmp_path / name).read_text())
    refused = 0
    for place in places(content):
        for value in FILES[name]:
            (tmp_path / name).write_text(json.dumps(changed(content, place, value)))
            try:
                page = report([tmp_path])
                for write in (as_html, as_markdown, as_json):
                    write(page)
            except InputError as error:
                said = [str(error)]
            except Exception as error:
                raise AssertionError(f"{place}: {value!r}") from error
            else:
                gone = [*page.missing, *(missing for panel in page.panels for missing in panel.missing)]
                said = [missing.why for missing in gone if missing.what in (DAMAGED, "the comparison")]
            refused += bool(said)
            assert "\n" not in "".join(said)
    assert refused


def test_the_command_line_writes_the_rest_and_leaves_with_2(run_cli, run_folder, tmp_path):
    shutil.copytree(run_folder, tmp_path / "run")
    (tmp_path / "run" / "heads.json").write_text('{"blocks": null}')
    code, _, error = run_cli("report", str(tmp_path / "run"))
    assert (code, (tmp_path / "run" / "report.html").exists()) == (2, True)
    assert "heads.json is damaged (blocks" in error.splitlines()[-1]
