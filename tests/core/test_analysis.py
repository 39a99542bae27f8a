import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.cost import Cost, Term, component_costs, total_cost, unit_cost
from prune_realloc.core.errors import InputError
from prune_realloc.core.files import write_file
from prune_realloc.planning.ranking import retention
from prune_realloc.results.figures import retention_figure
from prune_realloc.results.page import write_report
from prune_realloc.results.summary import _units_for, summary
from prune_realloc.results.tables import site_table

TERMS = (
    Term(component="qk", sites=("embed", "blocks.0.heads", "blocks.0.qk"), params=2, macs=20),
    Term(component="v", sites=("embed", "blocks.0.heads", "blocks.0.v"), params=1, macs=10),
    Term(component="ffn", sites=("embed", "blocks.0.ffn"), params=2, macs=20),
    Term(component="head", params=7, macs=5),
)
WIDTHS = {"embed": 4, "blocks.0": 1, "blocks.0.heads": 2, "blocks.0.qk": 2, "blocks.0.v": 2, "blocks.0.ffn": 4}


def make_analysis(**changes):
    scores = {
        "embed": np.array([1.0, 2.0, 3.0, 4.0]),
        "blocks.0": np.array([0.5]),
        "blocks.0.heads": np.array([0.5, 0.25]),
        "blocks.0.qk": np.array([8.0, 1.0, 0.5, 6.0]),
        "blocks.0.v": np.array([4.0, 4.0, 4.0, -1.0]),
        "blocks.0.ffn": np.array([0.1, 0.2, 3.0, 9.0]),
    }
    damage = {n: np.linspace(1.0, 0.0, WIDTHS[n] + 1) for n in WIDTHS}
    values = dict(
        scores=scores,
        damage=damage,
        widths=WIDTHS,
        groups={n: 2 if n[-2:] in ("qk", ".v") else 1 for n in WIDTHS},
        terms=TERMS,
        scorer="fisher",
        unit="nats",
        samples=8,
        seed=0,
        model={"architecture": "toy"},
        data={"name": "d", "labels": "given"},
        stability={"ffn": 0.9},
        loss=0.5,
        top1=0.75,
        notes=("n",),
        versions={"torch": "2"},
    )
    return Analysis(**(values | changes))


def test_cost_by_hand():
    # qk 4*2*2 = 16, v 16, ffn 16 combinations
    assert total_cost(TERMS, WIDTHS) == Cost(params=32 + 16 + 32 + 7, macs=320 + 160 + 320 + 5)
    assert component_costs(TERMS, WIDTHS)["v"] == Cost(params=16, macs=160)
    assert unit_cost(TERMS, WIDTHS, "blocks.0.ffn", "macs") == 80
    assert unit_cost(TERMS, WIDTHS, "blocks.0.heads", "macs") == (320 + 160) / 2


@given(st.sampled_from(sorted(WIDTHS)), st.integers(1, 9))
def test_a_unit_saves_what_the_formula_says(site, less):
    narrower = WIDTHS | {site: WIDTHS[site] + less}
    saved = total_cost(TERMS, narrower).macs - total_cost(TERMS, WIDTHS).macs
    assert saved == pytest.approx(less * unit_cost(TERMS, WIDTHS, site, "macs"))


def test_round_trip(tmp_path):
    analysis = make_analysis()
    analysis.save(tmp_path / "run")
    assert Analysis.load(tmp_path / "run") == analysis
    assert Analysis.load(tmp_path / "run") != make_analysis(seed=1)
    assert Analysis.load(tmp_path / "run") != make_analysis(scores=analysis.scores | {"embed": np.zeros(4)})
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["analysis.json", "analysis.safetensors"]


def test_same_analysis_same_bytes(tmp_path):
    for name in ("a", "b"):
        make_analysis().save(tmp_path / name)
        write_report(make_analysis(), tmp_path / name)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_damaged_analyses_are_refused(tmp_path):
    make_analysis().save(tmp_path)
    meta = json.loads((tmp_path / "analysis.json").read_text())
    for change, complaint in (({"format_version": 99}, "format_version 99"), (None, "damaged")):
        text = "{" if change is None else json.dumps(meta | change)
        (tmp_path / "analysis.json").write_text(text)
        with pytest.raises(InputError, match=complaint):
            Analysis.load(tmp_path)
    (tmp_path / "analysis.json").write_text(json.dumps(meta))
    for change, complaint in (("terms", "damaged"), ("scorer", "damaged"), ("widths", "damaged")):
        (tmp_path / "analysis.json").write_text(json.dumps({k: v for k, v in meta.items() if k != change}))
        with pytest.raises(InputError, match=complaint):
            Analysis.load(tmp_path)
    (tmp_path / "analysis.json").write_text(json.dumps(meta))
    (tmp_path / "analysis.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="damaged"):
        Analysis.load(tmp_path)
    (tmp_path / "analysis.safetensors").unlink()
    with pytest.raises(InputError, match=r"no analysis\.safetensors"):
        Analysis.load(tmp_path)


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_file(path, b"old")

    def interrupt(self, content):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "os.fdopen",
        lambda handle, mode: type(
            "F", (), {"__enter__": lambda self: self, "__exit__": lambda self, *a: None, "write": interrupt}
        )(),
    )
    with pytest.raises(KeyboardInterrupt):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_retention_by_hand():
    # per unit: qk 320/4 = 80 MACs, v 160/4 = 40, ffn 320/4 = 80; in all 800
    # worth: ffn .1125, qk .1, v .1 .1 .1, qk .075, ffn .0375, qk .0125, qk .00625, ffn .0025 .00125, v -.025
    kept = retention(make_analysis(), keep_macs=0.35)  # 280: ffn 80, qk 80, three v
    assert kept == {"blocks.0.qk": 0.25, "blocks.0.v": 0.75, "blocks.0.ffn": 0.25}
    assert set(retention(make_analysis(), 1.0).values()) == {1.0}
    for budget in (0, 1.5, -1, float("nan")):
        with pytest.raises(InputError, match="keep_macs"):
            retention(make_analysis(), budget)


@given(st.floats(0.05, 1), st.floats(0.05, 1))
def test_a_larger_budget_keeps_no_less(a, b):
    small, large = (retention(make_analysis(), budget) for budget in sorted((a, b)))
    assert all(small[name] <= large[name] for name in small)


def test_concentration_by_hand():
    assert _units_for(np.array([6.0, 1.0, 3.0]), 0.9) == 2  # 6 + 3 are nine tenths
    assert _units_for(np.array([1.0, 1.0, 1.0, 1.0]), 0.9) == 4
    assert _units_for(np.array([-1.0, 0.0]), 0.9) == 0


def test_summary_by_hand():
    numbers = summary(make_analysis())
    # positive parts: qk 15.5, v 12, ffn 12.3 of 39.8 together; heads and embed each by themselves
    assert numbers["sites"]["blocks.0.v"]["share"] == pytest.approx(12 / 39.8)
    assert numbers["sites"]["blocks.0.heads"]["share"] == 1
    assert numbers["sites"]["blocks.0.v"] | {"share": 0} == {
        "width": 2,
        "units": 4,
        "score": 11.0,
        "share": 0,
        "units90": 3,
    }
    assert numbers["params"] == 87
    magnitude = summary(dataclasses.replace(make_analysis(), unit="magnitude"))
    assert magnitude["sites"]["blocks.0.v"]["share"] == 1  # magnitudes of different axes do not compare
    json.dumps(numbers, allow_nan=False)


def test_the_page_is_self_contained_and_escaped(tmp_path):
    analysis = make_analysis(model={"architecture": "<script>alert(1)</script>"}, notes=("a < b",))
    page = write_report(analysis, tmp_path).read_text()
    assert "<script>" not in page
    assert "a &lt; b" in page
    assert 'src="data:image/png;base64,' in page
    assert "http" not in page.replace("http-equiv", "")
    assert (tmp_path / "retention.png").read_bytes() == retention_figure(analysis)
    assert site_table(summary(analysis)).row_count == 2
