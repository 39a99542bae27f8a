"""What the package ships is what the documents say."""

from pathlib import Path

import pytest
import torch

from prune_realloc import load_model
from prune_realloc.checkpoints.load import DEMO
from prune_realloc.data.batches import iterate
from prune_realloc.data.images import open_images
from prune_realloc.data.preprocessing import preprocessing
from prune_realloc.families import family_of


def test_shipped_vit_is_a_deit_of_12_blocks_in_2_mb():
    model = load_model()
    assert len(model.blocks) == 12
    assert model.pretrained_cfg["architecture"] == "deit_tiny_patch16_224"
    assert (DEMO / "model.safetensors").stat().st_size <= 2_000_000


@pytest.mark.slow
def test_shipped_vit_is_right_on_real_test_images():
    model = load_model()
    prepare = preprocessing(model, family_of(model).example_input(model)[1:], {})
    source = open_images("demo", split="test")
    right = 0
    with torch.inference_mode():
        for batch in iterate(source, prepare, samples=source.count, batch_size=250, seed=0):
            right += int((model(batch.images).argmax(1) == batch.labels).sum())
    assert right / source.count >= 0.88  # half of the official test images; the whole: docs/benchmarks.md


@pytest.mark.slow
def test_second_order_expansion_predicts_the_measured_loss_change(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    from ablation import measure

    table = measure(images=256, units=10, blocks=[1, 6, 11], held_out=False)
    for axis, least in (("qk", 0.95), ("v", 0.95), ("ffn", 0.95), ("heads", 0.9)):
        assert table[axis]["loss"]["change_same"] >= least, axis
    for axis in ("qk", "v", "ffn"):
        assert table[axis]["taylor"]["size_same"] >= 0.85, axis
