"""The verb `report`."""

import json
import shutil

import pytest
from support.run_folder import OLD

from prune_realloc.cli import report


@pytest.fixture
def run(tmp_path):
    return shutil.copytree(OLD / "analysis", tmp_path / "run")


def test_the_page_lies_in_the_first_folder(run_cli, run, monkeypatch):
    shown = []
    monkeypatch.setattr(report.webbrowser, "open", lambda address: shown.append(address) or True)
    code, out, err = run_cli("report", run, "--open")
    assert (code, out) == (0, ""), err
    assert "<h1>What pruning shows of vit_tiny_patch16_224</h1>" in (run / "report.html").read_text()
    assert shown == [(run / "report.html").as_uri()]


def test_markdown_and_json_are_printed_and_hold_the_same(run_cli, run, tmp_path):
    code, markdown, err = run_cli("report", run, "--format", "md")
    assert code == 0, err
    code, printed, err = run_cli("report", run, "--format", "json")
    assert code == 0, err
    for panel in json.loads(printed)["panels"]:
        assert f"## {panel['title']}\n" in markdown
    run_cli("report", run, "--format", "json", "-o", tmp_path / "new" / "r.json")
    assert (tmp_path / "new" / "r.json").read_text() == printed


def test_bad_input_is_one_line(run_cli, run, tmp_path):
    for args, complaint in (
        ((tmp_path / "none",), "is no folder"),
        ((run, run), "given twice"),
        ((run, "--format", "pdf"), "format 'pdf' is unknown; give one of html, md, json"),
        ((run, "--format", "md", "--open"), "open: a browser shows html"),
    ):
        code, out, err = run_cli("report", *args)
        assert (code, out) == (2, ""), (args, err)
        assert complaint in next(line for line in err.splitlines() if line.startswith("prune-realloc:"))
