"""`analyze --check`: the shipped network's ranking is trusted, a shuffled one is not, and laws hold on it."""

import dataclasses
import json

import numpy as np
import pytest
from support.networks import build

from prune_realloc.checkpoints.save import save_pruned
from prune_realloc.recipe.document import Data, Source
from prune_realloc.results.checked import Check
from prune_realloc.verbs.analyze import analyze
from prune_realloc.verbs.check import check, checkable

FEW = Data(samples=16)


@pytest.fixture(autouse=True)
def few_sites(monkeypatch):
    monkeypatch.setattr("prune_realloc.verbs.check._SITES", 4)
    monkeypatch.setattr("prune_realloc.verbs.check._DRAWS", 2)


@pytest.fixture(scope="module")
def analysis():
    return analyze(samples=32)


def checked(analysis):
    return check(checkable(Source(), FEW, batch_size=16), analysis)


def test_the_shipped_ranking_is_trusted(analysis):
    found = checked(analysis)
    assert found.trusted
    assert sum(each.reverse for each in found.tried) > sum(each.random for each in found.tried)
    assert max(found.sorted_difference, found.cut_difference) < 1e-5
    assert found.lines()[0].startswith("check: the ranking is better than random")


def test_shuffled_scores_are_found_out(analysis):
    draw = np.random.default_rng(0)
    wrong = {name: draw.permutation(scores) for name, scores in analysis.scores.items()}
    found = checked(dataclasses.replace(analysis, scores=wrong))
    assert not found.trusted
    assert found.lines()[0].startswith("check: the ranking is NO better than random")


def test_nothing_to_try_is_said():
    found = Check(tried=(), samples=0, seed=0, sorted_difference=0.0, cut_difference=0.0)
    assert not found.trusted
    assert found.lines() == [line for line in found.lines() if "nothing was tried" in line]


def test_command_line(run_cli, tmp_path, monkeypatch):
    monkeypatch.setattr("prune_realloc.verbs.check._SITES", 1)
    code, _, err = run_cli("analyze", "--samples", 8, "--scorer", "magnitude", "--check", "-o", tmp_path)
    assert code == 0, err
    assert "check: the ranking is " in err
    numbers = json.loads((tmp_path / "check.json").read_text())
    assert [each["kept"] for each in numbers["tried"]] == [48, 32, 16]


def test_a_network_without_a_classifier_is_refused_before_it_is_scored(run_cli, monkeypatch, tmp_path):
    net = build(num_classes=0)
    net.pretrained_cfg["num_classes"] = 0
    save_pruned(net, tmp_path / "body")
    monkeypatch.setattr("prune_realloc.verbs.analyze.analyze", lambda *_, **__: pytest.fail("it was scored first"))
    code, _, err = run_cli("analyze", tmp_path / "body", "--data", "demo", "--check")
    assert (code, err.count("check needs a classifier and images")) == (2, 1), err
