"""The table of widths in small: what is drawn, what is trained and kept, and how a rule is judged by it."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.analyses import make_analysis
from support.data import idx_bytes

from prune_realloc.core.errors import InputError

FOLDER = Path(__file__).parent.parent.parent / "examples" / "width_table"
BUDGET = 2_000_000


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    yield
    for name in ("allocations", "candidates", "controls", "judge", "rows", "rules", "structured", "study", "table"):
        sys.modules.pop(name, None)


def test_random_allocations_meet_the_budget_and_their_bounds():
    from allocations import drawn

    found = [drawn(number, BUDGET) for number in range(20)]
    assert len({*found}) == 20
    assert found == [drawn(number, BUDGET) for number in range(20)]
    for allocation in found:
        assert allocation.config().cost.macs == pytest.approx(BUDGET, rel=0.01)
        assert all(width % 4 == 0 and width >= 8 for width in allocation.embed)
        assert all(4 <= width <= 24 for width in allocation.qk)
        for ratio, (low, high) in (("v", (0.5, 2)), ("ffn", (0.125, 6))):
            widths = np.array(getattr(allocation, ratio))
            unit = np.array(allocation.embed) / (4 if ratio == "v" else 1)
            assert ((widths >= low * unit - 0.5) & (widths <= np.maximum(high * unit + 0.5, 2))).all()


def test_structured_allocations_are_those_of_the_rules_and_of_the_study():
    from structured import structured

    study = json.loads((FOLDER.parent / "reallocation_study" / "final.json").read_text())
    configs = study["results"]["cifar10"]["configs"]
    found = structured(BUDGET, {})
    assert [*found] == ["uniform", "paper", "floors", "nvit", "least", "law"]
    for name, known in (("uniform", "2M-control"), ("paper", "2M-paper")):
        assert found[name].config().args() == configs[known]
    assert found["floors"].ffn == found["floors"].embed
    nvit = found["nvit"]
    assert [*nvit.ratios["ffn"]] == pytest.approx([3, 6, 3])
    assert nvit.qk[0] / nvit.embed[0] < 0.75 * nvit.qk[1] / nvit.embed[1]
    for name in ("least", "law"):
        assert found[name].qk == (4, 4, 4)
        assert max(found[name].ratios["ffn"]) < 0.2
        assert found[name].config().cost.macs == pytest.approx(BUDGET, rel=0.01)
    with pytest.raises(InputError, match="budget 100,000: rounding misses it for"):
        structured(100_000, {})


def test_controls_of_the_emitted_network_cost_what_it_costs(monkeypatch):
    import controls
    from controls import factorial, of_equal_parameters, swaps
    from structured import structured

    analysis = make_analysis(B=6, D=64, H=4, K=16, F=256, N=17)
    named = structured(BUDGET, {"own": analysis})
    own, uniform = named["rule-stream-own"], named["uniform"]
    monkeypatch.setattr(controls, "SWAPS", 3)
    swapped = swaps(analysis, BUDGET)
    drawn = [seed for name in swapped if name != "inverted" for seed in name.split("-")[1:]]
    assert sorted(drawn) == [f"{seed:02}" for seed in range(3)]
    one_component = factorial(uniform, own, BUDGET)
    for allocation in (*swapped.values(), *one_component.values()):
        assert allocation.config().cost.macs == pytest.approx(BUDGET, rel=0.01)
    assert one_component["only-ffn"].ratios["ffn"] == pytest.approx(own.ratios["ffn"], rel=0.2)
    assert one_component["only-qk"].qk == own.qk
    params = own.config().cost.params
    equal = dict(of_equal_parameters(analysis, uniform, own, BUDGET))
    assert [one.config().cost.params for one in equal.values()] == pytest.approx([params] * 4, rel=0.02)


def test_the_widest_of_equal_cost_is_the_best_by_its_quality():
    from allocations import LEAST, widest

    first = widest(lambda allocation: allocation.embed[0], 1_000_000)
    last = widest(lambda allocation: allocation.embed[2], 1_000_000)
    assert first.embed[0] > LEAST.at_budget(1_000_000).embed[0] > last.embed[0]
    assert first.embed[2] < last.embed[2]
    with pytest.raises(InputError, match="budget 1,000: no channels"):
        widest(lambda allocation: 0, 1_000)


def analysis_of(blocks):
    """Streams lose 2, 1, 0; the FFN of block b loses b + 1 where it is gone."""
    damage = {"embed": np.array([2.0, 1.0, 0.0])}
    damage |= {f"blocks.{b}.ffn": np.array([b + 1.0, 0.0]) for b in range(blocks)}
    return SimpleNamespace(damage=damage, widths={"embed": 2})


def test_curves_of_a_source_lie_at_the_depth_of_their_blocks():
    from rules import curves_of

    curves = curves_of(analysis_of(6))
    assert [curve[0] for curve in curves["ffn"]] == pytest.approx([1, 2 + 3, 4 + 5 + 6])
    assert [curve[0] for curve in curves["embed"]] == [2, 2, 2]
    assert curves["embed"][1][32] == 1
    halves = curves_of(analysis_of(3))  # two of the target's six blocks lie beside each
    assert [curve[0] for curve in halves["ffn"]] == pytest.approx([0.5, 0.5 + 2 / 2, 2 / 2 + 3])


def test_what_is_foretold_is_the_sum_of_what_the_widths_lose():
    from allocations import Allocation
    from rules import curves_of, predicted

    curves = curves_of(analysis_of(6))
    allocation = Allocation(embed=(8, 4, 16), qk=(4,) * 3, v=(2,) * 3, ffn=(32, 8, 32))  # FFN ratios 4, 2, 2
    assert predicted(curves, ("embed",), 16)(allocation) == pytest.approx(-(1 + 1.5 + 0))
    assert predicted(curves, ("ffn",), 16)(allocation) == pytest.approx(-(0 + 5 / 2 + 15 / 2))


def test_swapped_curves_are_the_same_curves_elsewhere():
    from rules import curves_of, swapped

    curves = curves_of(analysis_of(6))
    found = swapped(curves, 3)
    assert any(not np.array_equal(a, b) for name in found for a, b in zip(found[name], curves[name], strict=True))
    before, after = (sorted(tuple(c) for stages in each.values() for c in stages) for each in (curves, found))
    assert before == after
    assert all(np.array_equal(*pair) for pair in zip(found["ffn"], swapped(curves, 3)["ffn"], strict=True))


def test_candidates_stand_beside_what_has_measured_nothing(tmp_path, capsys):
    import candidates

    lines = [{"format": 1}, *rows_of(12, lambda allocation: -sum(1 / width for width in allocation.embed))]
    path = tmp_path / "table.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    make_analysis(B=6, D=64, H=4, K=16, F=256, N=17).save(tmp_path / "analysis")
    candidates.main([str(path), "--analysis", f"own={tmp_path / 'analysis'}"])
    shown = capsys.readouterr().out
    assert "| own: the stream |" in shown
    assert shown.count("swapped curves") == 19
    assert "| no measurement: channels alone | +1.00 |" in shown


def data_set(folder):
    """Dark and bright images, which any network tells apart, as IDX files in the place of Fashion-MNIST's."""
    folder.mkdir()
    draw = np.random.default_rng(0)
    for part, count in (("train", 160), ("t10k", 64)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = (draw.integers(0, 40, (count, 28, 28)) + 20 * labels[:, None, None]).astype(np.uint8)
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx_bytes(images))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx_bytes(labels))
    return folder


@pytest.mark.slow
def test_a_table_in_small_is_trained_once_and_goes_on(tmp_path, monkeypatch, capsys):
    import table

    monkeypatch.setattr(table, "SETTINGS", table.SETTINGS | {"batch_size": 64})
    monkeypatch.setattr(table, "FIRST", 1)
    monkeypatch.setattr(table, "SEEDS", 2)
    monkeypatch.setattr(table, "analyses_of", lambda args: {})
    monkeypatch.setattr(table, "structured", lambda *_: {"flat": table.drawn(99, BUDGET)})
    sizes = ["--samples", "128", "--epochs", "1", "--out", str(tmp_path / "out"), "--tables", str(tmp_path)]
    args = ["fashion", "--fashion-mnist", str(data_set(tmp_path / "data")), *sizes]
    table.main([*args, "--count", "1"])
    path, tests = tmp_path / "fashion_2M.jsonl", tmp_path / "fashion_2M_test.jsonl"
    before = path.read_text()
    table.main([*args, "--count", "2"])
    head, *rows = map(json.loads, path.read_text().splitlines())
    assert head["format"] == 1
    assert path.read_text().startswith(before)
    assert [(row["name"], row["seed"], row["half"]) for row in rows] == [
        ("flat", 0, None),
        ("random-000", 0, "choose"),
        ("flat", 1, None),
        ("random-000", 1, "choose"),
        ("random-001", 0, "report"),
    ]
    told = [json.loads(line) for line in tests.read_text().splitlines()[1:]]
    assert [(row["name"], row["seed"], row["images"]) for row in told] == [(r["name"], r["seed"], 64) for r in rows]
    assert rows[1]["top1"] != rows[3]["top1"] or rows[1]["loss"] != rows[3]["loss"]
    capsys.readouterr()
    table.main([*args, "--count", "2"])
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit):
        table.main([*args, "--count", "2", "--epochs", "2"])
    assert "settings is" in capsys.readouterr().err


def rows_of(count, quality, seeds=(0,)):
    """A table of drawn allocations whose accuracy is told by a function."""
    from allocations import drawn

    found = []
    for number in range(count):
        allocation = drawn(number, BUDGET)
        row = {"name": f"random-{number:03}", "kind": "random", "half": ("choose", "report")[number % 2]}
        row |= {"widths": allocation.widths(), "params": allocation.config().cost.params}
        found += [row | {"seed": seed, "top1": quality(allocation) + 0.001 * seed} for seed in seeds]
    return found


def test_a_rule_that_knows_is_told_from_one_that_does_not():
    import judge

    found = judge.trained(rows_of(40, lambda allocation: float(np.log(allocation.embed[0]))))
    right = judge.judge(found, "report", lambda allocation: float(allocation.embed[0]))
    assert right["the rule"].correlation == pytest.approx(1)
    assert right["channels, stage 1"].behind == pytest.approx((0, 0))
    assert right["linear fit of every width"].correlation > 0.95  # equal channels are equal but for their last bits
    assert right["parameters"].behind[0] > 0
    upside_down = judge.judge(found, "report", lambda allocation: -float(allocation.embed[0]))["the rule"]
    assert upside_down.correlation == pytest.approx(-1)
    guess = np.random.default_rng(0)
    low, high = judge.judge(found, "report", lambda allocation: guess.normal())["the rule"].interval
    assert low < 0 < high


def test_structured_allocations_are_ranked_among_the_random_ones():
    import judge

    rows = [{"name": "flat", "kind": "structured", "seed": seed, "top1": 0.5 + 0.1 * seed} for seed in range(2)]
    rows += [{"name": "thin", "kind": "structured", "seed": 0, "top1": 0.7}]
    rows += [{"name": f"random-{i:03}", "kind": "random", "seed": 0, "top1": top1} for i, top1 in enumerate((0.4, 0.6))]
    *_, first, second = judge.named(rows).splitlines()
    assert first == "| thin | 1 | 70.00 |  | 2 |"
    assert second.startswith("| flat | 2 | 55.00 | +-")
    assert second.endswith("| 1 |")


def test_correlations_of_rows_are_those_of_each():
    import judge

    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 6, (5, 12)), draw.normal(size=(5, 12))
    expected = [judge.rank_correlation(*pair) for pair in zip(a, b, strict=True)]
    assert judge.rank_correlations(a, b) == pytest.approx(expected)
    assert np.isnan(judge.rank_correlations(np.ones((1, 4)), b[:1, :4])).all()


def test_fits_see_the_choosing_half_alone():
    import judge

    rows = rows_of(30, lambda allocation: float(allocation.ffn[0]))
    spoilt = [row | {"top1": 0.5} if row["half"] == "report" else row for row in rows]
    fits = [judge.linear_fit([one for one in judge.trained(part) if one.half == "choose"]) for part in (rows, spoilt)]
    allocation = judge.trained(rows)[1].allocation
    assert fits[0](allocation) == fits[1](allocation)


def test_seeds_are_averaged_and_their_noise_is_told():
    import judge

    rows = rows_of(6, lambda allocation: allocation.embed[0] / 100, seeds=(0, 1))
    assert judge.trained(rows)[0].top1 == pytest.approx(rows[0]["top1"] + 0.0005)
    assert "between two of the same 6 networks" in judge.noise(rows)
    assert "0.00 points between seeds" in judge.noise(rows)


def test_what_is_no_table_or_no_rule_is_refused(tmp_path):
    import judge
    from rows import read

    (tmp_path / "new.jsonl").write_text('{"format": 2}\n')
    with pytest.raises(InputError, match="has format 2, this is for 1"):
        read(tmp_path / "new.jsonl")
    (tmp_path / "none.jsonl").write_text("1, 2\n")
    with pytest.raises(InputError, match=r"none\.jsonl is no table of widths"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "rule.py").write_text("def quality(allocation):\n    return sum(allocation.embed)\n")
    assert judge.load_rule(f"{tmp_path / 'rule.py'}:quality")(judge.Allocation((8, 8), (4, 4), (2, 2), (8, 8))) == 16
    for spec, said in ((f"{tmp_path / 'rule.py'}:worth", "has no function 'worth'"), ("rule", "names no file")):
        with pytest.raises(InputError, match=said):
            judge.load_rule(spec)
    rows = rows_of(12, lambda allocation: allocation.embed[0] / 100)
    with pytest.raises(InputError, match="the rule: one number for all allocations of the half 'report'"):
        judge.judge(judge.trained(rows), "report", lambda allocation: 1.0)
    with pytest.raises(InputError, match="accuracies: one number for all"):
        judge.judge(judge.trained(rows_of(12, lambda allocation: 0.1)), "report", None)
    with pytest.raises(InputError, match="has 1 and 1 random allocations in its halves"):
        judge.judge(judge.trained(rows_of(2, lambda allocation: 0.5)), "report", None)
