"""Folders of pictures at the command line: the right labels, or exit code 2 and one line."""

import json

import pytest
from safetensors.torch import save_file
from support.networks import TINY
from support.right import pictures, right_network, write_pictures

NAMES = ("10", "9", "Zebra", "ant")


def refusal(code, err):
    """The one line after the progress bar."""
    lines = [line for line in err.splitlines() if "\u2501" not in line]
    assert (code, len(lines)) == (2, 1)
    return lines[0]


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """Arguments that open the network, and pictures in folders that torchvision and timm sort otherwise."""
    folder = tmp_path_factory.mktemp("right")
    pics = pictures(4)
    save_file(right_network(pics, 4).state_dict(), folder / "net.safetensors")
    write_pictures(folder / "data", pics, NAMES)
    pics[0][0].save(folder / "data" / "sheet.png")
    args = [f"--model-arg={name}={value}" for name, value in (TINY | {"num_classes": 4}).items()]
    return ["--model", "vit_tiny_patch16_224", *args, "--data", folder / "data"], folder / "net.safetensors"


def test_the_order_of_the_classes_is_asked_for_and_given(run_cli, opened, tmp_path):
    options, net = opened
    for verb in ("eval", "analyze"):
        code, _, err = run_cli(verb, net, *options)
        both = "10, 9, Zebra, ant in torchvision, 9, 10, ant, Zebra in timm; give --class-order"
        assert both in refusal(code, err)
    (tmp_path / "classes.json").write_text(json.dumps({name: label for label, name in enumerate(NAMES)}))
    for given in (["--class-order", "torchvision"], ["--class-map", tmp_path / "classes.json"]):
        code, out, err = run_cli("eval", net, *options, *given, "--json")
        assert code == 0, err
        assert (json.loads(out)["top1"], json.loads(out)["samples"]) == (1, 8)


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        (["--class-order", "mine"], "class_order"),
        (["--class-order", "timm", "--class-map", "x"], "give one of them"),
        (["--class-map", "/nowhere"], "class_map '/nowhere' cannot be read"),
    ],
)
def test_options_that_say_nothing_are_refused(run_cli, opened, given, complaint):
    options, net = opened
    code, _, err = run_cli("eval", net, *options, *given)
    assert complaint in refusal(code, err)


def test_training_takes_the_same_options(run_cli, opened, tmp_path):
    options, _ = opened
    model_args = [arg for arg in options if str(arg).startswith("--model-arg")]
    fast = ["--eval-split", "held-out", "--samples", 4, "--set", "epochs=1", "--set", "batch_size=4", *options[-2:]]
    code, _, err = run_cli(
        "train", "vit_tiny_patch16_224", *model_args, *fast, "--class-order", "mine", "-o", tmp_path / "a"
    )
    assert (code, err.strip().splitlines()[-1]) == (
        2,
        "prune-realloc: class_order 'mine' is unknown; choose torchvision or timm",
    )
    code, _, err = run_cli(
        "train", "vit_tiny_patch16_224", *model_args, *fast, "--class-order", "torchvision", "-o", tmp_path / "b"
    )
    assert code == 0, err
    assert "without --samples, --class-order" in " ".join(err.split())
    assert json.loads((tmp_path / "b" / "last" / "config.json").read_text())["pretrained_cfg"]["label_names"] == [
        *NAMES
    ]
    assert json.loads((tmp_path / "b" / "result.json").read_text())["data"]["class_order"] == "torchvision"
