"""Training: what a run writes, that it goes on bit for bit after any death, and what it refuses."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from support.training import FLEX, SMALL, Killed, described, dies_after, folder_of_images, place_of, run, small_vit

from prune_realloc import InputError, load_model
from prune_realloc.checkpoints.load import DEMO
from prune_realloc.core.errors import WorkFailed
from prune_realloc.core.intervals import interval
from prune_realloc.core.names import STATE_FILE
from prune_realloc.data.batches import iterate
from prune_realloc.models.efficientvit_config import EfficientVitConfig
from prune_realloc.results.evaluate import evaluate, measure
from prune_realloc.training import images as training_images
from prune_realloc.training import run as training_run
from prune_realloc.training.compare import compare
from prune_realloc.training.config import train_config
from prune_realloc.training.images import TrainingImages, epoch_order
from prune_realloc.training.plot import write_plot
from prune_realloc.training.timm_command import timm_command
from prune_realloc.training.train import train


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    return described(tmp_path_factory.mktemp("variant"))


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
    assert "data:image/png;base64," in page
    assert '"batch_size": 32' in page.replace("&quot;", '"')
    assert list((tmp_path / "tensorboard").iterdir())
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["top1"] == done.top1
    assert result["params"] == sum(p.numel() for p in net.parameters())


def test_a_finished_run_returns_its_result_again(variant, tmp_path):
    first = run(variant, tmp_path)
    state = (tmp_path / STATE_FILE).read_bytes()
    assert run(variant, tmp_path).top1 == first.top1
    assert hash((tmp_path / STATE_FILE).read_bytes()) == hash(state)  # of bytes, pytest would draw the difference


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
    on(data, "efficientvit_m0", tmp_path / "run", model_args={"img_size": 64})
    nets = (
        load_model(ckpt=tmp_path / "run" / "last"),
        timm.create_model(f"local-dir:{tmp_path / 'run' / 'last'}", pretrained=True),
    )
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*(net.eval()(images) for net in nets))


def test_an_epoch_has_every_image_once_in_an_order_of_its_own():
    config = train_config(batch_size=8)
    first, second = (epoch_order(list(range(64)), config, epoch) for epoch in (0, 1))
    for epoch, batches in enumerate((first, second)):
        places = [place for batch in batches for place in batch]
        assert sorted(index for _, index, _ in places) == list(range(64))
        assert {place[0] for place in places} == {epoch}
    assert [p[1] for b in first for p in b] != [p[1] for b in second for p in b]
    assert epoch_order(list(range(64)), config, 0) == first


def test_no_image_is_both_trained_on_and_held_out():
    images = TrainingImages("demo", None, "train", "held-out", 3900)
    assert sorted(images.chosen + images.held_out) == list(range(4000))


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


def test_repeated_augmentation_keeps_the_length_and_repeats_in_a_batch():
    batches = epoch_order(list(range(60)), train_config(batch_size=12, repeated_aug=3), 0)
    assert sum(map(len, batches)) == 60
    for batch in batches:
        assert len({index for _, index, _ in batch}) == 4
        assert len(set(batch)) == 12


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
    torch.manual_seed(0)
    start = timm.create_model(f"local-dir:{source}", pretrained=False)
    end = load_model(ckpt=tmp_path / "run" / "last")

    def moved(name):
        linears = (getattr(getattr(net, name), "linear", getattr(net, name)) for net in (start, end))
        return not torch.equal(*(linear.weight for linear in linears))

    assert (moved("head"), moved("head_dist")) == (weight == 0, weight == 1)


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


def on(data, variant, out, **more):
    settings = {name: more.pop(name) for name in ("distill", "workers") if name in more}
    config = train_config(**SMALL | {"batch_size": 8, "epochs": 1} | settings)
    return train(variant, config, data=str(data), out=out, device="cpu", **more)


def test_folders_of_parts(variant, tmp_path):
    """A part that is missing is never made up from another."""
    both = folder_of_images(tmp_path / "both")
    assert on(both, variant, tmp_path / "a").data["validation_images"] == 40
    with pytest.raises(InputError, match=r"has no part 'test'; choose one of train, validation"):
        on(both, variant, tmp_path / "b", eval_split="test")
    with pytest.raises(InputError, match="eval_split 'train' is what is trained on"):
        on(both, variant, tmp_path / "c", eval_split="train")
    whole = folder_of_images(tmp_path / "whole", parts=("",))
    with pytest.raises(InputError, match=r"eval_split 'validation' is not there: .* has no parts; choose .* held-out"):
        on(whole, variant, tmp_path / "d")
    assert on(whole, variant, tmp_path / "e", eval_split="held-out", samples=24).data["validation_images"] == 16
    with pytest.raises(InputError, match="eval_split 'validation' is what is trained on"):  # the one other part of IDX
        on("demo", variant, tmp_path / "f", split="test")


def test_both_parts_have_the_same_classes(variant, tmp_path):
    data = folder_of_images(tmp_path / "data")
    (data / "validation" / "class9").rename(data / "validation" / "other")
    with pytest.raises(InputError, match="class 'class9' of the training images is 'other' in the part that is eval"):
        on(data, variant, tmp_path / "run")


def test_labels_that_are_none_of_the_networks_classes_are_refused(variant, tmp_path, monkeypatch):
    """Of data that does not say beforehand how many classes it has."""
    opened = training_images.open_images

    def unknown(*args, **more):
        source = opened(*args, **more)
        shift = 0 if more["split"] == wrong else 1
        return replace(source, num_classes=None, load=lambda i: (source.load(i)[0], source.load(i)[1] - 1 + shift))

    monkeypatch.setattr(training_images, "open_images", unknown)
    for wrong in ("train", "test"):
        with pytest.raises(WorkFailed, match="has the label -1, the model 10 classes"):
            on("demo", variant, tmp_path / wrong, eval_split="test", samples=64, workers=1)


def test_images_that_cannot_be_read_are_counted_or_refused(variant, tmp_path):
    data = folder_of_images(tmp_path / "data")
    broken = sorted((data / "train").rglob("*.png"))
    broken[0].write_bytes(b"no image")
    assert on(data, variant, tmp_path / "one").unreadable == 1
    for path in broken[:8]:
        path.write_bytes(b"no image")
    with pytest.raises(WorkFailed, match="more than 5% of 40 images cannot be read"):
        on(data, variant, tmp_path / "many")
    for path in broken:
        path.write_bytes(b"no image")
    with pytest.raises(WorkFailed, match="more than 5% of 40 images cannot be read") as failure:
        on(data, variant, tmp_path / "all", workers=1)
    assert "\n" not in str(failure.value)


def test_every_policy_of_timms_runs(variant, tmp_path):
    """Its strongest posterize keeps no bit, which is no image."""
    for policy in ("v0", "original", "rand-m10-mstd0.5-inc1", "augmix-m5", "3a"):
        run(variant, tmp_path / policy, epochs=1, auto_augment=policy)


def test_a_full_memory_is_named(variant, tmp_path, monkeypatch):
    def full(*args, **more):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(training_run, "dispatch_clip_grad", full)
    with pytest.raises(InputError, match="batch_size 32 does not fit into memory; set accumulate higher") as failure:
        run(variant, tmp_path)
    assert "the same command" not in str(failure.value)


def test_timms_networks_get_the_datas_classes(tmp_path):
    data = folder_of_images(tmp_path / "data", classes=3)
    on(data, "resnet10t", tmp_path / "run")
    assert load_model(ckpt=tmp_path / "run" / "last").num_classes == 3


def test_runs_of_one_process_may_differ_in_precision(variant, tmp_path):
    for precision in ("float32", "bf16", "float32"):
        run(variant, tmp_path / f"{precision}{len(list(tmp_path.iterdir()))}", epochs=1, precision=precision)


def test_what_changes_speed_only_may_change_from_start_to_start(variant, tmp_path):
    with pytest.raises(Killed):
        run(variant, tmp_path / "run", report=dies_after(1), save_seconds=0.0)
    with pytest.raises(InputError, match=r"config\.grad_checkpointing is False there"):  # batch norms differ
        run(variant, tmp_path / "run", grad_checkpointing=True)
    again = run(variant, tmp_path / "run", workers=1)
    assert again.loss == run(variant, tmp_path / "whole").loss


def test_another_run_in_the_folder_is_refused(variant, tmp_path):
    run(variant, tmp_path, epochs=1)
    with pytest.raises(InputError, match=r"holds another run: config.lr is 0.002 there, 0.001 now"):
        run(variant, tmp_path, epochs=1, lr=1e-3)
    with pytest.raises(InputError, match=r"holds another run: model_args.drop_rate is None there, 0.1 now"):
        train(
            variant,
            train_config(**SMALL | {"epochs": 1}),
            data="demo",
            out=tmp_path,
            samples=320,
            device="cpu",
            eval_split="held-out",
            model_args={"drop_rate": 0.1},
        )
    (tmp_path / "other").mkdir()
    other = described(tmp_path / "other", qk_dim=8)
    content = (variant / "config.json").read_bytes()
    try:  # the same folder, emitted anew with other widths
        shutil.copy(other / "config.json", variant / "config.json")
        with pytest.raises(InputError, match="the network that is given is not the one that the run began with"):
            run(variant, tmp_path, epochs=1)
    finally:
        (variant / "config.json").write_bytes(content)
    (tmp_path / STATE_FILE).write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"is damaged .*; remove it to start again"):
        run(variant, tmp_path, epochs=1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"preset": "slow"}, "preset is no setting"),
        ({"ema": True}, "ema: must be a number, got True"),
        ({"ema": 1.0}, "ema: .*less than 1"),
        ({"learning_rate": 1}, "unknown setting 'learning_rate'"),
        ({"epochs": 0}, "epochs: .*greater than or equal to 1, got 0"),
        ({"mixup": 1.0, "batch_size": 33}, "batch_size: 33 is odd"),
        ({"epochs": 5, "warmup_epochs": 5}, "warmup_epochs: 5 leaves nothing of 5 epochs"),
        ({"distill": "loud"}, "distill: "),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        train_config(**settings)


def test_warm_up_takes_half_of_the_epochs_at_most():
    assert [train_config(epochs=n).warmup_epochs for n in (1, 2, 30)] == [0, 1, 1]
    assert [train_config("paper", epochs=n).warmup_epochs for n in (4, 300)] == [2, 5]
    assert train_config(epochs=4, warmup_epochs=3).warmup_epochs == 3


def test_an_unknown_preset_is_refused():
    with pytest.raises(InputError, match="preset: unknown value 'slow'"):
        train_config("slow")


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
    with pytest.raises(InputError, match="has 10 classes, the network 7"):
        train(described(tmp_path, num_classes=7), train_config(**SMALL), data="demo", out=tmp_path / "x", device="cpu")


def test_presets_are_right():
    paper = train_config("paper")
    assert (paper.epochs, paper.batch_size, paper.lr, paper.lr_per, paper.ema) == (300, 2048, 1e-3, 512, 0.99996)


def test_the_documented_values_are_the_presets():
    text = (Path(__file__).parents[2] / "docs" / "train.md").read_text()
    rows = [[cell.strip(" `") for cell in line.split("|")[1:5]] for line in text.splitlines() if line.startswith("| `")]
    values = {name: cells for name, *cells in rows}
    for index, preset in enumerate(("quick", "paper", "recover")):
        for name, value in train_config(preset).model_dump().items():
            shown = "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
            assert values[name][index] == shown, (preset, name)


def test_timms_command_says_what_the_settings_say(tmp_path):
    folder = small_vit(tmp_path / "realloc")
    description = json.loads((folder / "config.json").read_text())
    where = {"data_dir": "my images", "split": "train", "eval_split": "test"}
    text = timm_command(train_config("paper"), str(folder), "torch/cifar10", description, **where)
    for words in (
        f"--model local-dir:{folder} ",
        "--in-chans 1",
        "--sched-on-updates",
        "--dataset torch/cifar10",
        "--data-dir 'my images'",
        "--train-split train --val-split test",
        "--lr-base 0.001 --lr-base-size 512 --lr-base-scale linear",
        "--clip-mode agc",
        "--aug-repeats 3",
        "--model-ema-decay 0.99996",
        "--scale 0.08 1.0",
    ):
        assert words in text
    assert "None" not in text
    assert "--pretrained" not in text
    where = {"data_dir": None, "split": "train", "eval_split": "held-out"}
    settings = train_config("recover", sched="constant", precision="fp16")
    text = timm_command(settings, str(DEMO), str(tmp_path), description, **where)
    assert "None" not in text
    for words in ("--pretrained", "--sched step --warmup", "--decay-epochs 4", "--amp-dtype float16", "--data-dir"):
        assert words in text


def fake(folder: Path, seed: int, top1: float, epochs: int = 1, teacher: str | None = None, **args):
    (folder / "last").mkdir(parents=True)
    net = timm.create_model(f"local-dir:{described(folder / 'last', **args)}")
    safetensors.torch.save_file(net.state_dict(), folder / "last" / "model.safetensors")
    content = {"top1": top1, "params": 7, "config": {"seed": seed, "epochs": epochs}, "data": {"name": "demo"}}
    content |= {"teacher": teacher, "model_args": {}}
    (folder / "result.json").write_text(json.dumps(content))
    return folder


def test_groups_intervals_and_paired_differences_by_hand(tmp_path):
    values = {"control": (0.80, 0.82, 0.84), "realloc": (0.81, 0.84, 0.85)}
    folders = [
        fake(tmp_path / f"{name}-seed{seed}", seed, top1)
        for name, tops in values.items()
        for seed, top1 in enumerate(tops)
    ]
    control, realloc = compare(folders)
    assert (control.name, control.seeds, control.difference) == ("control", (0, 1, 2), None)
    assert realloc.mean == pytest.approx(0.8333, abs=1e-4)
    assert realloc.difference == pytest.approx((0.01 + 0.02 + 0.01) / 3)
    assert realloc.difference_half_width == pytest.approx(4.303 * np.std([1, 2, 1], ddof=1) / 100 / 3**0.5)
    assert control.macs == EfficientVitConfig(**FLEX).cost.macs
    assert interval([0.5]) is None
    twelve = np.arange(12.0)
    assert interval(twelve) == pytest.approx(2.20099 * np.std(twelve, ddof=1) / 12**0.5, rel=1e-4)


def test_a_vision_transformer_is_compared_too(tmp_path):
    folder = fake(tmp_path / "vit-seed0", 0, 0.5)
    shutil.rmtree(folder / "last")
    shutil.copytree(DEMO, folder / "last")
    (group,) = compare([folder])
    assert group.macs == 33_382_016  # its closed formula, as in README


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
    with pytest.raises(InputError, match="is not there; give a folder that `train -o` wrote"):
        compare([tmp_path])
    (tmp_path / STATE_FILE).touch()
    with pytest.raises(InputError, match=r"is not finished: it has no result\.json"):
        compare([tmp_path])
    wrong = fake(tmp_path / "a" / "y-seed3", 0, 0.5)
    with pytest.raises(InputError, match=r"has seed 0, not what its name says; train it with --set seed=3"):
        compare([wrong])
    folders = [fake(tmp_path / "a" / "x-seed0", 0, 0.5), fake(tmp_path / "b" / "x-seed0", 0, 0.5)]
    with pytest.raises(InputError, match="seed 0 of x is given twice"):
        compare(folders)
    with pytest.raises(InputError, match="control 'y' is none of the groups x"):
        compare(folders[:1], control="y")
    other = fake(tmp_path / "a" / "x-seed1", 1, 0.5, epochs=2)
    with pytest.raises(InputError, match=r"is no other seed of .*: config.epochs is 2 here, 1 there"):
        compare([folders[0], other])
    for name, more, words in (
        ("x-seed2", {"teacher": "demo"}, "teacher is demo here, None there"),
        ("x-seed3", {"stem_strides": [2, 1]}, r"network.stem_strides is \[2, 1\] here, \[2, 2\] there"),
    ):
        other = fake(tmp_path / "a" / name, int(name[-1]), 0.5, **more)
        with pytest.raises(InputError, match=rf"is no other seed of .*: {words}"):
            compare([folders[0], other])
    with pytest.raises(InputError, match="txt is no format of pictures"):
        write_plot(compare(folders[:1]), tmp_path / "x.txt")


def test_networks_that_were_trained_otherwise_are_compared_with_a_word(tmp_path):
    folders = [fake(tmp_path / "control-seed0", 0, 0.5), fake(tmp_path / "other-seed0", 0, 0.6, epochs=300)]
    control, other = compare(folders)
    assert control.differs is None
    assert other.differs == "config.epochs is 300 here, 1 there"


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_plot_has_the_same_bytes_every_time(kind, tmp_path):
    groups = compare(
        [
            fake(tmp_path / f"{name}-seed{seed}", seed, 0.5 + seed / 10)
            for name in ("control", "other")
            for seed in (0, 1)
        ]
    )
    for name in ("a", "b"):
        write_plot(groups, tmp_path / f"{name}.{kind}")
    one, two = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("a", "b"))
    assert hash(one) == hash(two)
    assert len(one) > 1000


def test_names_lose_one_ending(tmp_path):
    folders = [fake(tmp_path / f"m-{n}-seed{seed}", seed, 0.5) for n in (1, 2) for seed in (1, 2)]
    assert [(group.name, group.seeds) for group in compare(folders)] == [("m-1", (1, 2)), ("m-2", (1, 2))]


def test_each_budget_has_its_control(tmp_path):
    names = ("small-control", "large-control", "small", "large")
    folders = [fake(tmp_path / f"{name}-seed0", 0, 0.5) for name in names]
    for folder in folders[1::2]:
        net = timm.create_model(f"local-dir:{described(folder / 'last', embed_dim=[16, 16, 16])}")
        safetensors.torch.save_file(net.state_dict(), folder / "last" / "model.safetensors")
    found = {group.name: group.control for group in compare(folders)}
    assert found == {"small-control": None, "large-control": None, "small": "small-control", "large": "large-control"}


def test_command_lines(run_cli, variant, tmp_path):
    flags = ("--samples", "320", "--eval-split", "held-out", "--set", "epochs=1", "--set", "warmup_epochs=0")
    code, _, err = run_cli("train", variant, "--data", "demo", "--device", "cpu", *flags, "-o", tmp_path / "x-seed0")
    assert code == 0, err
    assert "epoch 1: loss" in err
    code, out, _ = run_cli("compare", tmp_path / "x-seed0", "--bench", "--plot", tmp_path / "plot.png")
    assert code == 0
    assert "ms" in out
    assert "top-1 %" in out
    assert (tmp_path / "plot.png").stat().st_size > 1000
    code, _, err = run_cli("train", tmp_path / "x-seed0", "--data", "demo", "-o", tmp_path / "z")
    assert code == 2
    assert "is the folder of a training run; give" in err
    code, _, err = run_cli("analyze", "-o", tmp_path / "x-seed0")
    assert code == 2
    assert "holds a training run; choose another folder" in err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "analysis.json").touch()
    code, _, err = run_cli("train", variant, "--data", "demo", "--device", "cpu", *flags, "-o", tmp_path / "mine")
    assert code == 2
    assert "holds analysis.json, of another verb; choose another folder" in err
    code, _, err = run_cli("train", variant, "--data", "demo", "--preset", "recover", "-o", tmp_path / "y")
    assert code == 2
    assert "preset 'recover' distils from the source; give it with --teacher" in err


def test_what_emit_wrote_trains_with_all_seeds_and_is_compared(run_cli, tmp_path):
    for name in ("realloc", "control"):
        (tmp_path / "variants" / name).mkdir(parents=True)
        described(tmp_path / "variants" / name)
    flags = (
        "--data",
        "demo",
        "--device",
        "cpu",
        "--samples",
        "64",
        "--eval-split",
        "held-out",
        "--set",
        "epochs=1",
        "--set",
        "batch_size=32",
        "--seeds",
        "2",
        "-o",
        tmp_path / "runs",
        "--json",
    )
    code, out, err = run_cli("train", tmp_path / "variants", *flags)
    assert code == 0, err
    groups = {group["name"]: group for group in json.loads(out)}
    assert {name: group["seeds"] for name, group in groups.items()} == {"realloc": [0, 1], "control": [0, 1]}
    assert groups["realloc"]["difference"] == 0.0  # both are the same network here
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "control-seed0",
        "control-seed1",
        "realloc-seed0",
        "realloc-seed1",
    ]


def test_a_teacher_of_other_classes_shows(variant, tmp_path):
    """The shipped ViT knows Fashion-MNIST's classes by number; class folders number them by name."""
    done = run(variant, tmp_path / "right", distill="soft", teacher="demo", epochs=1)
    assert done.teacher_top1 > 0.8
    data = folder_of_images(tmp_path / "data")
    done = on(data, variant, tmp_path / "wrong", teacher="demo", distill="soft")
    assert done.teacher_top1 < 0.5
    config = json.loads((tmp_path / "wrong" / "last" / "config.json").read_text())
    assert config["pretrained_cfg"]["label_names"] == [f"class{label}" for label in range(10)]
    assert load_model(ckpt=tmp_path / "wrong" / "last").num_classes == 10
