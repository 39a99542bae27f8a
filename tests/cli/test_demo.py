"""The verb `demo`."""

import re
from pathlib import Path

from prune_realloc.cli import demo

SECTIONS = (
    "What was found",
    "Can the ranking be trusted?",
    "What was cut, and why",
    "Before and after",
    "What other budgets give",
    "Where the time goes",
    "How much attention?",
    "Heads",
    "The next network",
    "Training",
)


def test_demo_runs_every_step(run_cli, tmp_path, monkeypatch):
    less = {"_EPOCHS": 1, "_FEW": 16, "_SECONDS": 0.0, "_BUDGETS": (0.5,), "_MEASURED": 32}
    for name, value in less.items():
        monkeypatch.setattr(demo, name, value)
    code, out, err = run_cli("demo", "-o", tmp_path / "demo")
    assert code == 0, err
    assert "top-1" in out
    assert "Before and after" in out
    assert "1024/1024" in err
    assert "to the control" in out
    for name in (
        "report.html",
        "half.yaml",
        "pruned/model.safetensors",
        "pruned/result.json",
        "variants/control/model_card.md",
        "trained/realloc/result.json",
    ):
        assert (tmp_path / "demo" / name).is_file(), name
    [address] = re.findall(r"file://(\S+)$", out)
    page = Path(address).read_text()
    assert len(page) < 3_000_000
    for title in SECTIONS:
        assert f">{title}</h2>" in page, title
