"""The two examples in small, and the page whose blocks run one after the other."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent.parent
SMALL = {
    "segmentation": ["--train", "512", "--epochs", "20", "--calibration", "64", "--choose", "64", "--test", "200"],
    "retrieval": ["--gallery", "300", "--calibration", "64", "--choose", "64", "--test", "200"],
}


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_an_example_prunes_to_its_budget_and_keeps_what_it_measures(name, tmp_path, capsys):
    found = example(name).main([*SMALL[name], "--out", str(tmp_path / "out")])
    assert 0.58 < found["macs"] <= 0.6
    assert found["before"] > 0.3
    assert found["after"] > 0.9 * found["before"]
    assert "unseen" in capsys.readouterr().out
    assert (tmp_path / "out" / "units.json").exists()


def run_page(page, count):
    """What its blocks, so many of them, leave behind."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / page).read_text(), re.DOTALL)
    assert len(blocks) == count
    names = {"__name__": "page"}
    for block in blocks:
        exec(block, names)
    return names


def test_the_page_on_your_own_network_says_what_is_cut_and_what_is_not(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = run_page("own-network.md", 6)
    done, images = names["done"], names["images"]
    assert "blocks.2.qk 16 x 3" in capsys.readouterr().out
    assert 0.48 < done.cost.macs / done.source_cost.macs <= 0.5
    assert done.network(images).shape == (64, 10)
    assert torch.equal(names["rebuilt"](images), done.network.eval()(images))
    assert torch.equal(names["again"](images), names["smaller"].network(images))
    assert "blocks.layers.0.self_attn.q_proj.weight" in torch.load("standard.pth")


@pytest.mark.slow
def test_the_blocks_of_the_page_on_python_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run_page("python.md", 7)
    assert len(names["mask"]) == len(names["units"].index) < names["units"].of
    shapes = {name: tensor.shape for name, tensor in names["smaller"].items()}
    assert shapes == {name: p.shape for name, p in names["done"].network.named_parameters()}
