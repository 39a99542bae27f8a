import sys

import onnx
import pytest
import torch
import torch.nn.functional as F
from support.exporter import fake_exporter, fake_session
from support.interruption import killed_after
from support.standard_attention import encoder, torchvisions
from torch import nn

from prune_realloc import find_sites, load_model
from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit import EfficientVit
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.models.efficientvit_layers import CascadedGroupAttention
from prune_realloc.pruning.cut import cut_to_widths
from prune_realloc.results.export import export_onnx
from prune_realloc.results.parity import ExportError, onnx_session

SHAPE = (3, 32, 32)


def test_round_trip_with_any_batch(tiny_vit, tmp_path):
    file = tmp_path / "new" / "tiny.onnx"
    found = export_onnx(tiny_vit.train(), file, input_shape=SHAPE)
    assert tiny_vit.training
    assert (found.path, found.input_shape, found.size) == (str(file), ("batch", *SHAPE), file.stat().st_size)
    assert found.difference < 1e-5
    assert [p.name for p in file.parent.iterdir()] == ["tiny.onnx"]
    model = onnx.load(file)
    onnx.checker.check_model(model)
    assert model.opset_import[0].version == found.opset
    session = onnx_session(file)
    tiny_vit.eval()
    for batch in (1, 2, 5):
        images = torch.randn(batch, *SHAPE, generator=torch.Generator().manual_seed(batch))
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), tiny_vit(images).detach(), rtol=1e-4, atol=1e-4)
    content = file.read_bytes()
    assert b"site-packages" not in content  # no stack traces of this machine
    assert b"prune_realloc/" not in content


@pytest.mark.parametrize("factor", [1.001, float("nan")])
def test_broken_parity_leaves_no_file(tiny_vit, tmp_path, monkeypatch, factor):
    fake_exporter(monkeypatch)
    fake_session(monkeypatch, lambda images: factor * tiny_vit(images))
    with pytest.raises(ExportError, match="nothing was written"):
        export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_overflows_is_no_input_for_it(tiny_vit, tmp_path, monkeypatch):
    fake_exporter(monkeypatch)
    fake_session(monkeypatch, lambda images: tiny_vit(images))
    tiny_vit.head.weight.data.fill_(3e38)
    with pytest.raises(InputError, match="outputs are not finite"):
        export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=SHAPE)
    assert list(tmp_path.iterdir()) == []


def test_another_shape_is_no_parity(tiny_vit, tmp_path, monkeypatch):
    fake_exporter(monkeypatch)
    fake_session(monkeypatch, lambda images: tiny_vit(images)[:1])
    with pytest.raises(ExportError, match=r"shape \(1, 5\), PyTorch \(3, 5\)"):
        export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=SHAPE)


def test_difference_is_relative_to_the_largest_output(tiny_vit, tmp_path, monkeypatch):
    fake_exporter(monkeypatch)
    fake_session(monkeypatch, lambda images: tiny_vit(images) * (1 + 2**-15))
    found = export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=SHAPE)
    assert found.difference == pytest.approx(2**-15, rel=0.05)


def test_failure_keeps_the_file_that_was_there(tiny_vit, tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(b"old")
    fake_exporter(monkeypatch, opset=18)
    with pytest.raises(InputError, match="opset 11 is not possible for this model, PyTorch wrote 18"):
        export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=SHAPE, opset=11)
    assert (tmp_path / "m.onnx").read_bytes() == b"old"


def test_weights_beside_the_file_keep_their_name(tiny_vit, tmp_path, monkeypatch):
    fake_exporter(monkeypatch, files=("", ".data"))
    found = export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=SHAPE, check=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (found.size, found.difference) == (2, None)


@pytest.mark.parametrize("changes", range(4))
def test_a_killed_export_never_leaves_a_file_with_the_weights_of_another(tiny_vit, tmp_path, monkeypatch, changes):
    fake_exporter(monkeypatch, files=("", ".data"))
    for name in ("m.onnx", "m.onnx.data"):
        (tmp_path / name).write_bytes(b"old")
    with killed_after(changes):
        export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=SHAPE, check=False)
    assert (tmp_path / "m.onnx").exists() == (changes in (0, 3))  # its removal, and the renames of weights and file
    assert len({path.read_bytes() for path in tmp_path.glob("m.onnx*")}) == 1


def test_what_the_exporter_cannot_do_is_one_line(tiny_vit, tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise RuntimeError("unsupported\nand a long story")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(ExportError, match=r"cannot export the model to ONNX: unsupported$"):
        export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=SHAPE)


class Windows(nn.Module):
    """Attention of two windows, a dimension of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.head = nn.Linear(3, 24), nn.Linear(8, 5)

    def forward(self, x):
        x = self.qkv(x.unflatten(2, (2, -1)).flatten(3).permute(0, 2, 3, 1))  # B, windows, N, C
        q, k, v = x.unflatten(3, (3, 2, 4)).permute(3, 0, 4, 1, 2, 5)
        return self.head(F.scaled_dot_product_attention(q, k, v).permute(0, 2, 3, 1, 4).flatten(3).mean((1, 2)))


def test_attention_that_the_exporter_cannot_write_is_written_as_its_products(tmp_path):
    torch.manual_seed(0)
    found = export_onnx(Windows().eval(), tmp_path / "m.onnx", input_shape=(3, 4, 4))
    assert found.attention_in_products
    assert found.difference < 1e-5


def test_attention_that_the_exporter_can_write_is_left_to_it(tiny_vit, tmp_path):
    assert not export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=SHAPE).attention_in_products


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_missing_package_names_the_remedy(tiny_vit, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"package {package}, .* pip install 'prune-realloc\[onnx\]'"):
        export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=SHAPE)


def test_a_pruned_network_exports_to_onnx(tmp_path):
    net = load_model()
    net = cut_to_widths(net, {s.name: max(1, s.width // 2) if s.axis != "block" else 1 for s in find_sites(net)})
    found = export_onnx(net, tmp_path / "m.onnx", input_shape=(1, 28, 28))
    assert found.difference < 1e-4


@pytest.mark.parametrize("make", [torchvisions, encoder])
def test_what_is_cut_from_pytorchs_attention_is_exported(make, tmp_path):
    net = make()
    net = cut_to_widths(net, {s.name: max(1, s.width // 2) for s in find_sites(net)})
    found = export_onnx(net, tmp_path / "m.onnx", input_shape=(3, 32, 32))
    assert found.difference < 1e-4
    assert not found.attention_in_products


class Windowed(torch.nn.Module):
    """Attention over five dimensions, of windows, and with a table of positions."""

    num_classes = 4

    def __init__(self, table):
        super().__init__()
        self.qkv, self.head = torch.nn.Conv2d(3, 24, 4, 4), torch.nn.Linear(8, 4)
        self.table = torch.nn.Parameter(torch.randn(2, 16, 16)) if table else None

    def forward(self, images):
        x = self.qkv(images).unflatten(1, (3, 2, 4)).flatten(-2)  # B 3 H K N
        q, k, v = (x if self.table is not None else x.unflatten(-1, (4, 4))).transpose(3, -1).unbind(1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self.table)
        return self.head(x.transpose(1, -2).flatten(-2).flatten(1, -2).mean(1))


@pytest.mark.parametrize("table", [False, True])
def test_attention_of_windows_and_with_tables_is_exported(table, tmp_path):
    """ONNX has none of five dimensions; torch's CPU kernel with a mask gives out what its export cannot view."""
    torch.manual_seed(0)
    found = export_onnx(Windowed(table).eval(), tmp_path / "net.onnx", input_shape=(3, 16, 16))
    assert found.difference < 1e-5


def test_windows_that_do_not_divide_the_map(tmp_path):
    torch.manual_seed(0)
    config = EfficientVitConfig(
        img_size=36, stem_strides=(2, 2), embed_dim=(16, 24), depth=(1, 1), num_heads=(2, 2), window_size=(5, 5)
    )
    net, file = EfficientVit(config).fuse(), tmp_path / "m.onnx"
    assert config.blocks[0].window == 5 < 9  # the side of the first stage's map
    for attention in net.modules():
        if isinstance(attention, CascadedGroupAttention):
            torch.nn.init.normal_(attention.proj.weight)  # it starts at zero, and nothing behind it shows
            torch.nn.init.normal_(attention.fused_biases)
    assert export_onnx(net, file, input_shape=(3, 36, 36)).difference < 1e-4
    nodes = onnx.load(file).graph.node
    permutations = [list(node.attribute[0].ints) for node in nodes if node.op_type == "Transpose"]
    last = [order for order in permutations if order in ([0, 3, 1, 2], [0, 2, 3, 1])]
    assert not last, "channels go to the last place and back, which copies"


def test_a_session_that_has_answered_leaves_the_processor(tiny_vit, tmp_path):
    export_onnx(tiny_vit, tmp_path / "m.onnx", input_shape=SHAPE, check=False)
    options = onnx_session(tmp_path / "m.onnx").get_session_options()
    assert options.get_session_config_entry("session.force_spinning_stop") == "1"
