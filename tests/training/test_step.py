"""One step: learning rate, gradients, and what a teacher's predictions do."""

import shutil

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from support.training import described, folder_of_images, run, run_on, small_vit

from prune_realloc import load_model
from prune_realloc.checkpoints.load import DEMO
from prune_realloc.results.evaluate import evaluate


def test_the_learning_rate_by_hand(variant, tmp_path):
    """Of the last of ten steps of each epoch: a straight line in the first, half a cosine over all of them after it."""
    found = {}
    for sched in ("cosine", "constant"):
        rows = []
        run(
            variant,
            tmp_path / sched,
            epochs=3,
            warmup_epochs=1,
            warmup_lr=1e-4,
            min_lr=1e-5,
            lr=4e-3,
            lr_per=64,
            sched=sched,
            report=rows.append,
        )
        found[sched] = [row["lr"] for row in rows if "lr" in row]
    warm = 1e-4 + (2e-3 - 1e-4) * 9 / 10
    cosine = [1e-5 + (2e-3 - 1e-5) * (1 + np.cos(np.pi * step / 30)) / 2 for step in (19, 29)]
    assert found == {"cosine": pytest.approx([warm, *cosine]), "constant": pytest.approx([warm, 2e-3, 2e-3])}


def test_accumulation_gives_the_same_step(tmp_path):
    """Plain gradient descent, unclipped: a gradient of another size would show."""
    source = small_vit(tmp_path / "vit")
    for parts in (1, 4):
        run(source, tmp_path / str(parts), epochs=1, accumulate=parts, opt="sgd", lr=0.05, clip_grad=0.0)
    one, four = (safetensors.torch.load_file(tmp_path / name / "last" / "model.safetensors") for name in ("1", "4"))
    for name, tensor in one.items():
        torch.testing.assert_close(four[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_distillation_learns_what_the_teacher_says(kind, variant, tmp_path):
    """The teacher gives every class the name of the next; with all weight on it, that is what the student says."""
    shutil.copytree(DEMO, tmp_path / "teacher")
    tensors = safetensors.torch.load_file(tmp_path / "teacher" / "model.safetensors")
    tensors |= {name: tensors[name].roll(1, 0) for name in ("head.weight", "head.bias")}
    safetensors.torch.save_file(tensors, tmp_path / "teacher" / "model.safetensors")
    settings = {"distill": kind, "distill_weight": 1.0, "epochs": 3, "smoothing": 0.0}
    run(variant, tmp_path / "run", samples=1280, teacher=str(tmp_path / "teacher"), **settings)
    found = evaluate(
        ckpt=tmp_path / "run" / "last", source=str(tmp_path / "teacher"), data="demo", split="train", samples=300
    )
    assert found.agreement > 0.3
    assert found.top1 < 0.1


@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("kind", ["deit", "efficientvit"])
def test_a_second_classifier_learns_from_the_teacher_only(kind, weight, tmp_path):
    source = small_vit(tmp_path / "source", architecture="deit_tiny_distilled_patch16_224")
    if kind == "efficientvit":
        described(source, distillation=True)
    run(source, tmp_path / "run", distill="hard", teacher=str(DEMO), epochs=1, distill_weight=weight, weight_decay=0.0)
    assert moved_classifiers(source, tmp_path / "run") == (weight == 0, weight == 1)


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_without_labels_both_classifiers_learn_from_the_teacher(kind, tmp_path):
    """What is evaluated is the mean of the two."""
    source = small_vit(tmp_path / "source", architecture="deit_tiny_distilled_patch16_224")
    images = folder_of_images(tmp_path / "images", parts=("",), classes=1, each=32) / "class0"
    run_on(images, source, tmp_path / "run", distill=kind, teacher=str(DEMO), weight_decay=0.0)
    assert moved_classifiers(source, tmp_path / "run") == (True, True)


def moved_classifiers(source, run):
    """Whether each of a student's two has other weights than it began with."""
    torch.manual_seed(0)
    start = timm.create_model(f"local-dir:{source}", pretrained=False)
    end = load_model(ckpt=run / "last")

    def moved(name):
        linears = (getattr(getattr(net, name), "linear", getattr(net, name)) for net in (start, end))
        return not torch.equal(*(linear.weight for linear in linears))

    return moved("head"), moved("head_dist")
