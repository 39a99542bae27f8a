"""Swin as ONNX: whole, and cut with blocks gone."""

import pytest
import torch
from support.swin import pictures, swin

from prune_realloc import find_sites
from prune_realloc.pruning.cut import cut_to_widths
from prune_realloc.results.export import export_onnx
from prune_realloc.results.parity import onnx_session


@pytest.mark.parametrize("cut", [False, True], ids=["whole", "cut"])
def test_the_file_computes_what_the_network_does_at_any_batch(cut, tmp_path):
    net = swin("filled up", depths=(3, 2))
    if cut:
        gone = (0, 4)
        net = cut_to_widths(net, {s.name: 0 if s.block in gone else max(1, s.width - 1) for s in find_sites(net)})
    found = export_onnx(net, tmp_path / "swin.onnx", input_shape=(3, 32, 32))
    assert found.difference < 1e-5
    session = onnx_session(tmp_path / "swin.onnx")
    for batch in (1, 3):
        images = pictures(net, batch, seed=batch)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), net(images).detach(), rtol=1e-4, atol=1e-4)
