"""A run as a whole: what it writes, and what it refuses."""

import html
import json
import logging
import os
import random
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from support.training import (
    SMALL,
    folder_of_images,
    place_of,
    run,
    run_on,
)

from prune_realloc import InputError, load_model
from prune_realloc.checkpoints.load import DEMO
from prune_realloc.core.errors import WorkFailed
from prune_realloc.core.names import STATE_FILE
from prune_realloc.data.batches import iterate
from prune_realloc.results.evaluate import measure
from prune_realloc.training import step as training_step
from prune_realloc.training.config import train_config
from prune_realloc.training.images import TrainingImages
from prune_realloc.training.train import train


def test_a_run_trains_and_writes_networks_that_load(variant, tmp_path):
    rows = []
    done = run(variant, tmp_path, samples=1280, epochs=3, report=lambda row: rows.append(row))
    assert done.train_loss < rows[0]["loss"]
    assert done.top1 > 0.3  # chance is 0.1
    for name in ("last", "best"):
        net = load_model(ckpt=tmp_path / name)
        assert timm.create_model(f"local-dir:{tmp_path / name}", pretrained=True).num_classes == 10
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,loss,lr,top1")
    assert len(lines) == 4
    page = (tmp_path / "report.html").read_text()
    assert "<svg" in page
    assert '"batch_size": 32' in html.unescape(page)
    assert list((tmp_path / "tensorboard").iterdir())
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["top1"] == done.top1
    assert result["params"] == sum(p.numel() for p in net.parameters())


def test_a_network_at_hand_is_refused_with_the_way_to_a_folder(tmp_path):
    for given in ({"source": torch.nn.Linear(2, 2)}, {"source": "demo", "teacher": torch.nn.Linear(2, 2)}):
        with pytest.raises(InputError, match=r"is a Linear; give a folder, .*save_pruned"):
            train(**given, config=train_config("quick"), data="demo", out=tmp_path)


def test_the_same_seed_gives_the_same_network_and_another_does_not(variant, tmp_path):
    weights = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(variant, tmp_path / name, epochs=1, seed=seed)
        weights.append((tmp_path / name / "last" / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize("source", ["variant", "demo", "one-level"])
@pytest.mark.parametrize("model_args", [None, {"img_size": 56}], ids=["own", "larger"])
def test_what_is_written_is_what_was_evaluated(source, model_args, variant, tmp_path):
    """By our loader and by timm's, also where arguments changed the network."""
    if source == "one-level":  # as timm wrote it once
        content = json.loads((DEMO / "config.json").read_text())
        shutil.copytree(DEMO, tmp_path / "old")
        (tmp_path / "old" / "config.json").write_text(json.dumps(content | content.pop("pretrained_cfg")))
    given = {"variant": variant, "demo": "demo", "one-level": tmp_path / "old"}[source]
    done = train(
        given,
        train_config(epochs=1, batch_size=32),
        data="demo",
        out=tmp_path / "run",
        samples=64,
        eval_split="held-out",
        device="cpu",
        model_args=model_args,
    )
    images = TrainingImages("demo", None, "train", "held-out", 64)
    for net in (
        load_model(ckpt=tmp_path / "run" / "last"),
        timm.create_model(f"local-dir:{tmp_path / 'run' / 'last'}", pretrained=True).eval(),
    ):
        prepare = images.fit(net)
        assert prepare.input_size == (1, *(2 * [(model_args or {"img_size": 28})["img_size"]]))
        batches = iterate(images.validation, prepare, samples=images.validation.count, batch_size=100, seed=0)
        assert measure(net, batches, labelled=True).loss == pytest.approx(done.loss, rel=1e-5)


def test_timms_efficientvit_is_written_as_ours(tmp_path):
    data = folder_of_images(tmp_path / "data", classes=3)
    run_on(data, "efficientvit_m0", tmp_path / "run", model_args={"img_size": 64})
    nets = (
        load_model(ckpt=tmp_path / "run" / "last"),
        timm.create_model(f"local-dir:{tmp_path / 'run' / 'last'}", pretrained=True),
    )
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*(net.eval()(images) for net in nets))


def test_timms_networks_get_the_datas_classes(tmp_path):
    data = folder_of_images(tmp_path / "data", classes=3)
    run_on(data, "resnet10t", tmp_path / "run")
    assert load_model(ckpt=tmp_path / "run" / "last").num_classes == 3


def test_runs_of_one_process_may_differ_in_precision(variant, tmp_path):
    for precision in ("float32", "bf16", "float32"):
        run(variant, tmp_path / f"{precision}{len(list(tmp_path.iterdir()))}", epochs=1, precision=precision)


def test_a_full_memory_is_named(variant, tmp_path, monkeypatch):
    def full(*args, **more):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(training_step, "dispatch_clip_grad", full)
    with pytest.raises(InputError, match="batch_size 32 does not fit into memory; set accumulate higher") as failure:
        run(variant, tmp_path)
    assert "the same command" not in str(failure.value)


def test_what_does_not_fit_together_is_refused(variant, tmp_path):
    with pytest.raises(InputError, match="distill: needs a teacher"):
        run(variant, tmp_path, distill="soft")
    with pytest.raises(InputError, match="batch_size 32 is not a multiple of 1 processes x accumulate 5"):
        run(variant, tmp_path, accumulate=5)
    with pytest.raises(InputError, match="leaves one image for each of 1 processes x accumulate 32; batch norms need"):
        run(variant, tmp_path, accumulate=32)
    with pytest.raises(InputError, match=r"efficientvit_flex cannot be built with .*'depth': 3"):
        train(variant, train_config(), data="demo", out=tmp_path, model_args={"depth": 3})
    with pytest.raises(InputError, match="needs samples below the 4000 images"):
        run(variant, tmp_path, samples=10**6)
    with pytest.raises(InputError, match="samples -5 must be at least 1"):
        run(variant, tmp_path, samples=-5)
    with pytest.raises(InputError, match="batch_size 32 is more than the 20 training images; lower it"):
        run(variant, tmp_path, samples=20)
    with pytest.raises(InputError, match="opt 'adamww' is none of timm's optimizers"):
        run(variant, tmp_path, opt="adamww")
    with pytest.raises(InputError, match="auto_augment 'much' is no policy"):
        run(variant, tmp_path, auto_augment="much")
    with pytest.raises(InputError, match="precision 'fp16' needs a GPU"):
        run(variant, tmp_path, precision="fp16")
    for classes, what in ((7, "num_classes 7 is fewer .* has 10; give --num-classes 10"), (12, "has 10 .* network 12")):
        with pytest.raises(InputError, match=what):
            train(variant, train_config(**SMALL), data="demo", out=tmp_path / "x", device="cpu", num_classes=classes)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_a_state(variant, tmp_path):
    with pytest.raises(WorkFailed, match=r"the loss is (nan|inf) in epoch 1"):
        run(variant, tmp_path, lr=1e30, clip_grad=0.0, sched="constant")
    state = safetensors.torch.load_file(tmp_path / STATE_FILE)
    assert all(torch.isfinite(tensor).all() for name, tensor in state.items() if name.startswith("model/"))


def test_weights_that_are_not_finite_are_never_saved(variant, tmp_path, monkeypatch):
    """Gradients that are not finite spoil the weights, after a loss that is."""
    step = torch.optim.AdamW.step
    taken = []

    def spoilt(self, closure=None):
        taken.append(1)
        if len(taken) == 4:
            for group in self.param_groups:
                for parameter in group["params"]:
                    parameter.grad.fill_(float("nan"))
        return step(self, closure)

    monkeypatch.setattr(torch.optim.AdamW, "step", spoilt)
    with pytest.raises(WorkFailed, match="weights are no longer finite in epoch 1, step 4; lower lr"):
        run(variant, tmp_path, save_seconds=0.0)
    state = safetensors.torch.load_file(tmp_path / STATE_FILE)
    assert all(torch.isfinite(tensor).all() for tensor in state.values())
    assert place_of(tmp_path) == (0, 3)


def test_a_teacher_of_other_classes_shows(variant, tmp_path):
    """The shipped ViT knows Fashion-MNIST's classes by number; class folders number them by name."""
    done = run(variant, tmp_path / "right", distill="soft", teacher="demo", epochs=1)
    assert done.teacher_top1 > 0.8
    data = folder_of_images(tmp_path / "data")
    done = run_on(data, variant, tmp_path / "wrong", teacher="demo", distill="soft")
    assert done.teacher_top1 < 0.5
    config = json.loads((tmp_path / "wrong" / "last" / "config.json").read_text())
    assert config["pretrained_cfg"]["label_names"] == [f"class{label}" for label in range(10)]
    assert load_model(ckpt=tmp_path / "wrong" / "last").num_classes == 10


def test_a_network_that_was_better_before_is_said(variant, tmp_path):
    fresh = run(variant, tmp_path / "fresh", epochs=1)
    assert fresh.before_top1 is None
    assert "before training" not in (fresh.note() or "")
    spoilt = run("demo", tmp_path / "spoilt", epochs=1, lr=0.05)
    assert spoilt.before_top1 > 0.8 > spoilt.best_top1
    assert "right on more images before training" in spoilt.note()
    assert json.loads((tmp_path / "spoilt" / "result.json").read_text())["before_top1"] == spoilt.before_top1


def test_a_network_that_has_learnt_nothing_is_said(variant, tmp_path):
    done = run(variant, tmp_path / "run", epochs=1, lr=1e-9)
    assert done.classes == 10
    assert "it has learnt nothing that shows" in done.note()
    assert replace(done, best_top1=0.9, top1=0.9).note() is None
    assert json.loads((tmp_path / "run" / "result.json").read_text())["classes"] == 10


def global_state():
    """Everything of the process that a library might change."""
    levels = {name: logging.getLogger(name).level for name in (None, "timm", "accelerate", "torch")}
    return {
        "python": random.getstate(),
        "numpy": [np.asarray(part).tolist() for part in np.random.get_state()],  # noqa: NPY002
        "torch": torch.get_rng_state().tolist(),
        "accelerate": [dict(kind._shared_state) for kind in (AcceleratorState, PartialState, GradientState)],
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "determinism": (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.deterministic),
        "speed": (torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()),
        "types": (torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()),
        "safe globals": torch.serialization.get_safe_globals(),
        "words": (list(warnings.filters), levels),
        "environment": dict(os.environ),
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_a_caller_finds_everything_as_it_was(workers, variant, tmp_path):
    """Also their Accelerator, whose precision is another, before, inside and after the run."""
    theirs = Accelerator(mixed_precision="bf16", cpu=True)
    net = theirs.prepare(torch.nn.Linear(2, 2))
    torch.manual_seed(7)  # of which a run could leave nothing but its own seed
    before = global_state()
    done = run(variant, tmp_path / "within", epochs=1, workers=workers)
    assert global_state() == before
    assert theirs.mixed_precision == "bf16"
    with theirs.autocast():
        assert torch.ones(2, 2).mm(torch.ones(2, 2)).dtype == torch.bfloat16
    theirs.backward(net(torch.ones(1, 2)).sum())
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    assert run(variant, tmp_path / "alone", epochs=1, workers=workers).model == done.model  # theirs changed nothing


def test_a_run_that_fails_leaves_everything_too(variant, tmp_path):
    torch.manual_seed(7)
    before = global_state()
    with pytest.raises(WorkFailed):
        run(variant, tmp_path, lr=1e30, clip_grad=0.0, sched="constant")
    assert global_state() == before
