import json
from math import log

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from support.networks import build
from torch import nn

from prune_realloc.checkpoints.load import DEMO
from prune_realloc.core.errors import InputError
from prune_realloc.data.batches import Batch
from prune_realloc.families.inputs import input_shape
from prune_realloc.results.evaluate import Predictions, evaluate, measure
from prune_realloc.runtime.networks import evaluation_mode

GRAY = {"in_chans": 1, "num_classes": 10}


class Reads(nn.Module):
    """Its logits are the first pixels, times `sharpness`."""

    def __init__(self, sharpness: float = 1.0) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def forward(self, images):
        return self.sharpness * images.flatten(1)


def batches(logits, labels, size):
    images = torch.tensor(logits)[:, None, None, :]
    for i in range(0, len(images), size):
        part = images[i : i + size]
        places = range(i, i + len(part))
        yield Batch(torch.tensor(places), part, torch.tensor(labels)[i : i + size], tuple(places))


def test_values_by_hand():
    # two classes with odds 2:1 and 3:1; the first image is right (p 2/3), the second wrong (p 1/4)
    found = measure(Reads(), batches([[log(2), 0.0], [log(3), 0.0]], [0, 1], 2), labelled=True)
    assert (found.samples, found.top1, found.top5) == (2, 0.5, None)
    assert found.loss == pytest.approx((log(3 / 2) + log(4)) / 2)
    assert (found.agreement, found.kl, found.source_top1) == (None, None, None)


def test_kl_and_agreement_by_hand():
    # source: odds 3:1 and 1:3. model: sharpness -1 turns both around
    found = measure(
        Reads(-1.0), batches([[log(3), 0.0], [0.0, log(3)]], [0, 1], 1), labelled=True, source=Predictions(Reads())
    )
    assert (found.agreement, found.top1, found.source_top1) == (0.0, 0.0, 1.0)
    assert found.kl == pytest.approx(3 / 4 * log(3) + 1 / 4 * log(1 / 3))


def test_top5_counts_the_five_best_of_more_than_five():
    ranks = [[6.0, 5.0, 4.0, 3.0, 2.0, 1.0]] * 6
    found = measure(Reads(), batches(ranks, list(range(6)), 4), labelled=True)
    assert found.top1 == pytest.approx(1 / 6)
    assert found.top5 == pytest.approx(5 / 6)


def test_a_constant_network_is_right_on_one_class_only():
    found = measure(Reads(), batches([[0.0] * 8] * 8, list(range(8)), 8), labelled=True, source=Predictions(Reads(2.0)))
    assert (found.top1, found.top5, found.agreement) == (1 / 8, 5 / 8, 1.0)


def test_infinite_logits_are_named():
    with pytest.raises(InputError, match="not finite"):
        measure(Reads(), batches([[float("inf"), 0.0]], [0], 1), labelled=True)


def test_modes_are_put_back_also_on_error(tiny_vit):
    tiny_vit.train()
    tiny_vit.blocks[0].eval()
    before = [module.training for module in tiny_vit.modules()]
    with evaluation_mode(tiny_vit):
        assert not any(module.training for module in tiny_vit.modules())
    assert [module.training for module in tiny_vit.modules()] == before
    with pytest.raises(AssertionError, match="Input height"):
        measure(tiny_vit, [Batch(torch.arange(1), torch.zeros(1, 3, 8, 8), torch.arange(1), (0,))], labelled=True)
    assert [module.training for module in tiny_vit.modules()] == before


@pytest.mark.parametrize("size", [1, 7])
def test_batch_split_does_not_change_the_evaluation(size):
    net, source = build(**GRAY), build(**GRAY, depth=1)
    whole = evaluate(net, source=source, data="demo", samples=20, batch_size=16)
    other = evaluate(net, source=source, data="demo", samples=20, batch_size=size)
    assert (other.samples, other.data, other.notes) == (20, whole.data, whole.notes)
    for name in ("top1", "top5", "loss", "source_top1", "agreement", "kl"):
        assert getattr(other, name) == pytest.approx(getattr(whole, name), rel=1e-5), name


def test_a_network_agrees_with_itself():
    net = build(**GRAY)
    found = evaluate(net, source=net, data="demo", samples=20)
    assert (found.agreement, found.kl) == (1.0, 0.0)
    assert found.source_top1 == found.top1 <= found.top5
    assert found.model["weights_sha256"] == found.source["weights_sha256"]
    another = evaluate(net, source=build(**GRAY, depth=1), data="demo", samples=20)
    assert another.agreement < 1
    assert another.kl > 0
    assert (another.top1, another.loss) == (found.top1, found.loss)


def test_what_was_taken_of_the_source_is_said_without_a_preprocessing_that_is_not_used():
    net = build(**GRAY | {"img_size": 28, "patch_size": 7})
    found = evaluate(net, source=DEMO, data="demo", samples=2)
    assert found.source_taken["weights"]["value"] == "model.safetensors: all tensors"
    assert {"architecture", "heads", "classes"} < found.source_taken.keys()
    assert {"mean", "std", "crop"} & found.source_taken.keys() == set()
    assert {"mean", "std", "crop"} < found.taken.keys()
    assert evaluate(net, data="demo", samples=2).source_taken is None


def test_without_labels_only_the_source_counts():
    net = build(**GRAY)
    found = evaluate(net, source=build(**GRAY, depth=1), data="demo", samples=20, labels=False)
    assert (found.top1, found.loss, found.source_top1, found.data["labels"]) == (None, None, None, "unread")
    assert found.kl > 0
    with pytest.raises(InputError, match="--source"):
        evaluate(net, data="demo", samples=20, labels=False)


def test_all_images_where_no_number_is_given(tmp_path):
    for name in "abcde":
        (tmp_path / "val" / name).mkdir(parents=True)
        for i in range(3):
            pixels = np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "val" / name / f"{i}.png")
    (tmp_path / "val" / "a" / "0.png").write_bytes(b"broken")
    found = evaluate(build(), data=str(tmp_path))
    assert (found.samples, len(found.notes)) == (14, 1)
    assert "1 of 15 images could not be read" in found.notes[0]
    assert "15 images, 16 were asked for" in evaluate(build(), data=str(tmp_path), samples=16).notes[1]


def test_a_source_with_another_preprocessing_is_noted():
    source = build(**GRAY)
    source.pretrained_cfg = dict(source.pretrained_cfg, crop_pct=0.5)
    assert "preprocessing" in evaluate(build(**GRAY), source=source, data="demo", samples=2).notes[0]


def test_a_source_that_cannot_be_compared_is_refused():
    with pytest.raises(InputError, match="source has 7 classes, the model 10"):
        evaluate(build(**GRAY), source=build(in_chans=1, num_classes=7), data="demo")
    with pytest.raises(InputError, match=r"shape \(3, 32, 32\), the model \(1, 32, 32\)"):
        evaluate(build(**GRAY), source=build(num_classes=10), data="demo")


def test_no_classifier_is_refused():
    with pytest.raises(InputError, match="no classifier"):
        evaluate(build(num_classes=0), data="demo")


def test_input_shape_of_any_timm_model():
    assert input_shape(build(in_chans=1)) == (1, 32, 32)
    with torch.device("meta"):
        assert input_shape(timm.create_model("efficientvit_m0", in_chans=1)) == (1, 224, 224)
    with pytest.raises(InputError, match="input size"):
        input_shape(nn.Linear(2, 2))


def test_cli_eval_of_what_is_shipped(run_cli):
    code, out, err = run_cli("eval", "--samples", 32, "--source", "demo")
    assert code == 0, err
    assert "agreement with the source  100.00%" in out
    assert "32/32" in err
    code, out, err = run_cli("eval", "--samples", 32, "--json")
    assert json.loads(out)["top1"] == evaluate(samples=32).top1 > 0.5


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (("none.pth",), "does not exist"),
        ((DEMO,), "data is missing"),
        (("--samples", 0), "samples must be at least 1"),
        (("--batch-size", 0), "batch_size must be at least 1"),
        (("--source", "none.pth"), "does not exist"),
        (("--split", "half"), "split 'half'"),
        (("--no-labels",), "--source"),
        (("--mean", "x"), "mean 'x'"),
        (("--device", "tpu"), "choose auto, cpu or cuda"),
    ],
)
def test_cli_eval_bad_input_is_one_line(run_cli, args, complaint):
    code, out, err = run_cli("eval", *args)
    lines = [line for line in err.splitlines() if line.startswith("prune-realloc:")]
    assert (code, out, len(lines), "Traceback" in err) == (2, "", 1, False), err
    assert complaint in lines[0]


def test_preprocessing_that_nothing_tells_is_said_to_be_a_guess():
    net = nn.Sequential(nn.Conv2d(1, 4, 28), nn.Flatten(), nn.Linear(4, 10))
    net.input_size, net.num_classes = (1, 28, 28), 10
    [note] = evaluate(net, data="demo", samples=32).notes
    assert note.startswith("the network does not tell how images are prepared for it: mean ")
    assert "std " in note
    stated = {"mean": 0.3, "std": 0.3, "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
    assert evaluate(net, data="demo", samples=32, preprocess=stated).notes == ()
    assert evaluate(samples=32).notes == ()
