"""A network with another number of classes than the data gets a new head, aloud."""

import json

import pytest
import torch
from support.networks import TINY, build
from support.training import folder_of_images, run_on

from prune_realloc import InputError, load_model, save_pruned
from prune_realloc.results.evaluate import evaluate


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    """A network of five classes, in a folder."""
    folder = tmp_path_factory.mktemp("vit")
    save_pruned(build(), folder)
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Images of two classes."""
    return folder_of_images(tmp_path_factory.mktemp("images") / "data", classes=2)


def test_other_classes_get_a_new_head_and_the_body_stays(vit, data, tmp_path, caplog):
    done = run_on(data, vit, tmp_path / "out")
    (message,) = caplog.messages
    assert "the head is new, 2 logits with fresh weights" in message
    assert message.endswith("has 5")
    config = json.loads((tmp_path / "out" / "last" / "config.json").read_text())
    assert config["num_classes"] == 2
    again = load_model(ckpt=tmp_path / "out" / "last")
    assert (again.num_classes, again.head.out_features) == (2, 2)
    assert evaluate(again, data=str(data)).top1 == done.top1


def test_one_logit_tells_two_classes_apart(vit, data, tmp_path):
    done = run_on(data, vit, tmp_path / "out", num_classes=1)
    net = load_model(ckpt=tmp_path / "out" / "last")
    assert net.head.out_features == 1
    found = evaluate(net, data=str(data))
    assert (found.top1, found.top5) == (done.top1, None)
    with torch.no_grad():
        net.head.weight.zero_()
        net.head.bias.fill_(2.0)  # always the second class, with the sigmoid of 2
    found = evaluate(net, data=str(data))
    assert found.top1 == 0.5
    sure = torch.sigmoid(torch.tensor(2.0))
    assert found.loss == pytest.approx(float(-(sure.log() + (1 - sure).log()) / 2), abs=1e-5)


@pytest.mark.parametrize(("num_classes", "why"), [(1, "one logit, which tells two classes apart"), (2, "fewer than")])
def test_a_head_of_fewer_logits_than_the_data_has_classes_is_refused(vit, tmp_path, num_classes, why):
    data = folder_of_images(tmp_path / "data", classes=3)
    for source in (vit, "vit_tiny_patch16_224"):
        with pytest.raises(InputError, match=rf"^num_classes {num_classes} is {why}.* has 3; give --num-classes 3$"):
            run_on(data, source, tmp_path / "out", num_classes=num_classes)
    assert not (tmp_path / "out").exists()


def test_a_headless_network_gets_a_head_only_when_asked(data, tmp_path):
    net = build()
    net.reset_classifier(0)
    net.pretrained_cfg["num_classes"] = 0
    save_pruned(net, tmp_path / "body")
    with pytest.raises(InputError, match="has no classifier; give it one with --num-classes"):
        run_on(data, tmp_path / "body", tmp_path / "out")
    run_on(data, tmp_path / "body", tmp_path / "out", num_classes=2)
    assert load_model(ckpt=tmp_path / "out" / "last").num_classes == 2


def test_the_head_of_a_checkpoint_is_not_an_argument(vit, data, tmp_path):
    with pytest.raises(InputError, match=r"model_args: num_classes .* give --num-classes"):
        run_on(data, vit, tmp_path / "out", model_args={"num_classes": 2})
    with pytest.raises(InputError, match=r"num_classes must be at least 1"):
        run_on(data, vit, tmp_path / "out", num_classes=0)


def test_a_trained_network_has_the_license_of_its_source(data, tmp_path):
    net = build()
    net.pretrained_cfg = net.pretrained_cfg | {"license": "cc-by-nc-4.0"}
    save_pruned(net, tmp_path / "source")
    run_on(data, tmp_path / "source", tmp_path / "further")
    run_on(
        data,
        "vit_tiny_patch16_224",
        tmp_path / "new",
        model_args={name: value for name, value in TINY.items() if name != "num_classes"},
    )
    stated = [json.loads((tmp_path / name / "last" / "config.json").read_text()) for name in ("further", "new")]
    assert [config["pretrained_cfg"].get("license") for config in stated] == ["cc-by-nc-4.0", None]
