"""Where the time goes: what is counted is right, and what is counted adds up."""

import dataclasses

import pytest
import timm
import torch
from support.networks import TINY, build
from torch import nn

from prune_realloc.core.errors import InputError
from prune_realloc.results import profile as profiles
from prune_realloc.results.ceilings import Ceilings
from prune_realloc.results.operators import ELEMENTWISE, FUSED, MATRIX, MOVES, NORM, OTHER, SOFTMAX, kind_of, work_of
from prune_realloc.results.profile import profile
from prune_realloc.results.regions import ATTENTION, FFN, MERGING, find_regions
from prune_realloc.runtime.networks import measured_macs


@pytest.fixture(scope="module")
def measured():
    return profile({"tiny": build()}, (3, 32, 32), batch_sizes=(1, 4), seconds=0.3, threads=1)


def test_what_is_foreseen_is_of_a_warm_pass_by_the_devices_own_stopwatch(monkeypatch):
    done = []

    def stopwatch(call):
        assert done == ["pass"]
        call()
        return 2.0

    monkeypatch.setattr(profiles, "stopwatch_for", {torch.device("cpu"): stopwatch}.get)
    seconds = profiles._foreseen(lambda images: done.append("pass"), torch.zeros(1), 1.0)
    assert (seconds, done) == (4 * 2.0 + 2 * 3 * 2.0, ["pass", "pass"])


@pytest.mark.parametrize("parts", ["kinds", "components"])
def test_rows_add_up_to_the_wall_time(measured, parts):
    for each in measured.passes:
        assert sum(getattr(each, parts).values()) == pytest.approx(each.wall_ms, rel=0.05)
        assert each.memory_share + each.compute_share <= 1


def test_the_network_s_multiply_adds_lie_in_its_products(measured):
    images = torch.randn(4, 3, 32, 32)
    products = [each for each in measured.passes[1].operators if each.kind in (MATRIX, FUSED)]
    assert sum(each.flops for each in products) == 2 * measured_macs(build(), images)
    assert {each.component for each in products} == {"stem", "attention", "FFN", "head"}


def test_every_part_of_a_vit_has_its_time(measured):
    for each in measured.passes:
        assert {part for part, ms in each.components.items() if ms > 0} == {
            "stem",
            "attention",
            "FFN",
            "head",
            "rest",
        }


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("addmm", MATRIX),
        ("mkldnn_convolution", MATRIX),
        ("bmm", MATRIX),
        ("_scaled_dot_product_flash_attention_for_cpu", FUSED),
        ("_softmax", SOFTMAX),
        ("native_layer_norm", NORM),
        ("native_batch_norm", NORM),
        ("add_", ELEMENTWISE),
        ("gelu", ELEMENTWISE),
        ("cat", MOVES),
        ("_unsafe_view", MOVES),
        ("mean", OTHER),
    ],
)
def test_class_of_an_operator(name, kind):
    assert kind_of(f"aten::{name}") == kind


class Sums(nn.Module):
    """Two operators whose work is known: a product 2 x 3 x 5, and a concatenation of 6 and 10 numbers."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3, 5))

    def forward(self, x):
        return torch.cat([x, torch.mm(x, self.weight)], dim=1)


def test_work_by_hand():
    work = work_of(Sums(), torch.ones(2, 3))
    product, moved = work["aten::mm", ((2, 3), (3, 5))], work["aten::cat", ((2, 3), (2, 5))]
    assert (product.flops, product.bytes) == (2 * 2 * 3 * 5, 4 * (6 + 15 + 10))
    assert (moved.flops, moved.bytes) == (0, 4 * (16 + 16))


def test_what_limits_an_operator():
    roof = Ceilings(flops_per_s=100.0, bytes_per_s=10.0)
    assert roof.ridge == 10
    assert [roof.bound(99, 10), roof.bound(100, 10), roof.bound(0, 0)] == ["memory", "compute", ""]


MERGE = "layers.1.downsample"
SWIN = dict(img_size=32, patch_size=2, window_size=4, embed_dim=16, depths=(1, 1), num_heads=(2, 4), num_classes=5)


@pytest.mark.parametrize(
    ("name", "args", "attention", "ffn", "merging"),
    [
        ("vit_tiny_patch16_224", TINY, "blocks.0.attn", "blocks.0.mlp", None),
        (
            "swin_tiny_patch4_window7_224",
            SWIN,
            "layers.1.blocks.0.attn",
            "layers.1.blocks.0.mlp",
            "layers.1.downsample",
        ),
        (
            "efficientvit_m0",
            {"depth": (1, 1, 1)},
            "stages.0.blocks.0.mixer.m.attn",
            "stages.0.blocks.0.ffn1.m",
            "stages.1.downsample.patchmerge",
        ),
    ],
)
def test_components_follow_from_sites(name, args, attention, ffn, merging):
    regions = find_regions(timm.create_model(name, **args).eval()).components
    assert (regions[attention], regions[ffn]) == (ATTENTION, FFN)
    assert [module for module, part in regions.items() if part == MERGING][:1] == ([merging] if merging else [])


def test_pytorch_s_attention_lies_in_the_module_that_the_network_has():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    net = nn.Sequential(nn.Conv2d(3, 16, 8, 8), nn.Flatten(2), Turned(), nn.TransformerEncoder(layer, 2)).eval()
    net.input_size = (3, 32, 32)
    assert ATTENTION in find_regions(net).components.values()


class Turned(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_operators_above_the_ceilings_are_told(measured):
    last = measured.passes[-1]  # which of its operators are bound by what depends on the machine
    bound = [dataclasses.replace(each, bound="compute") for each in last.operators]
    passes = (dataclasses.replace(last, operators=tuple(bound)),)

    def told(factor):
        ceilings = dataclasses.replace(measured.ceilings, flops_per_s=factor * measured.ceilings.flops_per_s)
        return dataclasses.replace(measured, passes=passes, ceilings=ceilings).sentences()[-1]

    assert "busy machine" in told(1e-6)
    assert "busy machine" not in told(1e6)


def test_bad_input():
    with pytest.raises(InputError, match="batch must be at least 1"):
        profile({"tiny": build()}, (3, 32, 32), batch_sizes=(0,))
