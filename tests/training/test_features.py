"""Networks that learn from their teacher alone: by features, or by predictions, without labels."""

import json

import numpy as np
import pytest
import timm
import torch
from support.networks import build
from support.training import Killed, dies_after, folder_of_images, run_on

from prune_realloc import InputError, load_model, save_pruned
from prune_realloc.data.batches import iterate
from prune_realloc.data.labels import Naming
from prune_realloc.data.preprocessing import preprocessing
from prune_realloc.pruning.units import Units, units_file
from prune_realloc.training.compare import compare
from prune_realloc.training.config import train_config
from prune_realloc.training.features import Features, features, relative_errors
from prune_realloc.training.images import TrainingImages
from prune_realloc.training.outputs import Likeness
from prune_realloc.training.teacher import Teacher, channels_taught
from prune_realloc.training.train import train


def test_relative_errors_by_hand():
    mine = Features(torch.tensor([[3.0, 4.0]]), torch.tensor([[[1.0, 0.0], [0.0, 0.0]]]))
    theirs = Features(torch.tensor([[0.0, 5.0]]), torch.tensor([[[1.0, 1.0], [0.0, 2.0]]]))
    assert relative_errors(mine, theirs).tolist() == pytest.approx([(10 / 25 + 5 / 6) / 2])
    others = theirs._replace(tokens=theirs.tokens[:, :1])  # of another shape: not compared
    assert relative_errors(mine, others).tolist() == pytest.approx([10 / 25])
    chosen = theirs.of_channels(torch.tensor([1]))
    assert (chosen.pooled.tolist(), chosen.tokens.tolist()) == ([[5.0]], [[[1.0], [2.0]]])


@pytest.mark.parametrize("name", ["resnet10t", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"])
def test_tokens_have_their_channels_last_and_pool_to_the_features(name):
    args = {} if name == "resnet10t" else {"img_size": 64} | ({"window_size": 2} if "swin" in name else {})
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=0, global_pool="avg", **args).eval()
    with torch.no_grad():
        found = features(net, torch.randn(2, 3, 64, 64))
        pooled = found.tokens.mean(1)
        if name.startswith("vit"):  # its class token is left out, and normalised is what was pooled
            pooled = net.fc_norm(found.tokens[:, 1:].mean(1))
    assert found.pooled.shape == (2, net.num_features)
    assert found.tokens.shape[::2] == (2, net.num_features)
    torch.testing.assert_close(pooled, found.pooled)


def headless(folder, seed_of_noise=None, **args):
    """A tiny ViT without a classifier for grey images of 28 px, its weights moved a little where that is asked for."""
    net = build(num_classes=0, in_chans=1, img_size=28, patch_size=7, **args)
    if seed_of_noise is not None:
        generator = torch.Generator().manual_seed(seed_of_noise)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(0.03 * torch.randn(p.shape, generator=generator))
    net.pretrained_cfg = net.pretrained_cfg | {"mean": (0.3,), "std": (0.3,), "num_classes": 0}
    save_pruned(net, folder)
    return folder


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """100 images without labels or parts."""
    folder = folder_of_images(tmp_path_factory.mktemp("images") / "data", parts=("",), classes=1, each=100)
    return folder / "class0"


def recovered(student, teacher, data, out, report=None, save_seconds=60.0, **settings):
    config = train_config("recover", **{"epochs": 3, "lr": 1e-3, "batch_size": 10} | settings)
    more = {"report": report, "save_seconds": save_seconds}
    return train(student, config, data=str(data), out=out, teacher=teacher, device="cpu", **more)


@pytest.fixture(scope="module")
def bodies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bodies")
    return headless(folder / "source"), headless(folder / "moved", seed_of_noise=1)


def test_a_network_without_a_classifier_comes_nearer_to_its_teacher_on_images_that_it_has_not_seen(
    bodies, flat, tmp_path
):
    source, moved = bodies
    done = recovered(str(moved), str(source), flat, tmp_path / "run")
    near = done.likeness
    assert (done.top1, done.best_top1, done.teacher_top1, near.measure) == (None, None, None, "cosine")
    assert near.before < near.last <= near.best
    assert done.loss < 0.7 * near.loss_before
    assert (done.data["images"], done.data["validation_images"]) == (90, 10)
    net = load_model(ckpt=tmp_path / "run" / "last")
    assert net.num_classes == 0
    header, *rows = (tmp_path / "run" / "log.csv").read_text().splitlines()
    assert header.startswith("epoch,loss,lr,cosine,val_loss")
    assert float(rows[-1].split(",")[3]) == pytest.approx(near.last, abs=1e-5)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["top1"], result["likeness"]["before"]) == (None, near.before)
    assert "Cosine to the teacher" in (tmp_path / "run" / "report.html").read_text()
    with pytest.raises(InputError, match="read no labels, so there is no top-1 to compare"):
        compare([tmp_path / "run"])


def test_what_is_reported_is_the_mean_over_the_images_that_are_held_out(bodies, flat, tmp_path):
    done = recovered(*map(str, bodies[::-1]), flat, tmp_path, epochs=1)
    images = TrainingImages(str(flat), None, "train", "validation", None, Naming(wanted=False), taught=True)
    source, moved = (load_model(ckpt=folder) for folder in bodies)
    prepare = preprocessing(moved, (1, 28, 28), {})
    [batch] = iterate(images.validation, prepare, samples=10, batch_size=10, seed=3, workers=0)
    with torch.no_grad():
        theirs, mine = (features(net, batch.images) for net in (source, moved))
    cosine = torch.nn.functional.cosine_similarity(mine.pooled, theirs.pooled).mean()
    assert len(batch.images) == 10
    assert done.likeness.before == pytest.approx(float(cosine), abs=1e-6)
    assert done.likeness.loss_before == pytest.approx(float(relative_errors(mine, theirs).mean()), rel=1e-5)


def test_a_run_without_labels_that_died_goes_on_bit_for_bit(bodies, flat, tmp_path):
    source, moved = map(str, bodies)
    whole = recovered(moved, source, flat, tmp_path / "whole")
    with pytest.raises(Killed):
        recovered(moved, source, flat, tmp_path / "died", report=dies_after(1), save_seconds=0.0)
    again = recovered(moved, source, flat, tmp_path / "died")
    assert again.likeness == whole.likeness
    files = [(tmp_path / name / "last" / "model.safetensors").read_bytes() for name in ("whole", "died")]
    assert files[0] == files[1]


def test_a_narrower_stream_is_taught_the_channels_that_it_kept(tmp_path, flat):
    kept = np.array([*range(0, 20), *range(24, 40)])
    wide, narrow = headless(tmp_path / "wide"), headless(tmp_path / "narrow", embed_dim=36)
    nets = load_model(ckpt=wide), load_model(ckpt=narrow)
    units = units_file({"embed": Units("embed", 48, kept), "blocks.0.ffn": Units("blocks.0.ffn", 48, kept)})
    assert channels_taught(*nets, narrow, units).tolist() == kept.tolist()
    assert channels_taught(nets[0], nets[0], wide, None) is None
    with pytest.raises(InputError, match=r"teacher has 48 features, .* 36, and no units\.json beside that says which"):
        recovered(str(narrow), str(wide), flat, tmp_path / "out")
    for damaged in (units.replace(b"0, 1,", b'"a", 1,'), units.replace(b" 39]", b" 99]")):
        assert damaged != units
        with pytest.raises(InputError, match=r"not the content of a units\.json \(embed"):
            channels_taught(*nets, narrow, damaged)
    (narrow / "units.json").write_bytes(units)
    done = recovered(f"local-dir:{narrow}", str(wide), flat, tmp_path / "out", epochs=1)  # as timm names a folder
    assert done.likeness.last > done.likeness.before
    assert (tmp_path / "out" / "last" / "units.json").read_bytes() == units  # so that it can be trained further


def test_a_classifier_learns_from_its_teacher_alone_where_images_have_no_labels(flat, tmp_path, monkeypatch):
    folders, shown, forward = [], [], Teacher.forward

    def counted(self, images):
        shown.extend([torch.is_inference_mode_enabled()] * len(images))
        return forward(self, images)

    monkeypatch.setattr(Teacher, "forward", counted)
    for name, noise in (("teacher", 0.0), ("student", 0.05)):
        net = build(in_chans=1, img_size=28, patch_size=7)
        with torch.no_grad():
            for p in net.parameters():
                p.add_(noise * torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
        save_pruned(net, tmp_path / name)
        folders.append(str(tmp_path / name))
    done = recovered(folders[1], folders[0], flat, tmp_path / "run", lr=2e-3)
    assert (done.top1, done.likeness.measure) == (None, "agreement")
    assert done.loss < done.likeness.loss_before
    assert (shown.count(True), shown.count(False)) == (10, 270)  # those held out once, not in each of four evaluations
    with pytest.raises(InputError, match="has no labels; give some that has, or a network to learn from"):
        run_on(flat, folders[1], tmp_path / "alone", eval_split="held-out", samples=90)
    with pytest.raises(InputError, match="mixup: it and cutmix mix labels, and there are none"):
        recovered(folders[1], folders[0], flat, tmp_path / "mixed", mixup=0.5)


def test_what_needs_classes_is_refused_without_them(bodies, flat, tmp_path):
    source, moved = map(str, bodies)
    with pytest.raises(InputError, match="distill 'hard' is a decision between classes, and the network has none"):
        recovered(moved, source, flat, tmp_path / "hard", distill="hard")
    with pytest.raises(InputError, match="with --num-classes, or with --teacher the network whose features"):
        run_on(flat, moved, tmp_path / "alone")


def test_a_network_that_only_got_worse_is_said():
    numbers = {"measure": "cosine", "last": 0.97, "loss_before": 0.0}
    assert "nearer to its teacher before" in (Likeness(before=0.99, best=0.98, **numbers).note() or "")
    assert Likeness(before=0.98, best=0.98, **numbers).note() is None
