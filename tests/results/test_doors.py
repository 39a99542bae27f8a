"""A network that is right on every picture comes in through every door: right on all of them, or refused."""

import argparse
import copy
import functools

import pytest
import timm
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.networks import TINY
from support.right import pictures, right_network, write_pictures

from prune_realloc.core.errors import InputError
from prune_realloc.data.labels import natural_key
from prune_realloc.results.evaluate import evaluate

CLASSES = 4
PICTURES = pictures(CLASSES)
NAME = "vit_tiny_patch16_224"
WIDTHS = {"embed_dim": TINY["embed_dim"], "depth": TINY["depth"]}
HEADS = 6
STOCK = ["test_vit", "vit_tiny_patch16_224", "deit_tiny_patch16_224"]
"""Told by shapes, or with the file's name too; the last two differ in mean and std."""
STATED = {"mean": [0.2, 0.3, 0.7], "std": [0.1, 0.4, 0.2]}
FOREIGN = ["Hund", "Katze", "Vogel", "Biene"]
NOISE = {
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]},
    "epoch": 3,
    "criterion": {"weight": torch.ones(CLASSES)},
}


@pytest.fixture(scope="module")
def right():
    """Networks by timm's name, or None for tiny ones, and by what their file states of pixels.

    With twice the heads of timm's network of these shapes, which no tensor tells.
    """

    @functools.cache
    def made(stock, stated):
        heads = 2 * timm.create_model(stock).blocks[0].attn.num_heads if stock else HEADS
        return right_network(PICTURES, CLASSES, stock=stock, stated=STATED if stated else None, num_heads=heads)

    return made


def options(net, made, names):
    """What a script notes: the heads, perhaps the network, mean and std, and the classes."""
    told = {"num_heads": net.blocks[0].attn.num_heads, "output_dir": "runs/one"}
    told |= {} if made["stock"] else {"model": NAME}
    told |= STATED if made["stated"] else {}
    return told | ({"class_names": names} if names else {})


def wrong(state):
    """The same names and shapes, and no network."""
    return {name: torch.randn(tensor.shape).to(tensor.dtype) for name, tensor in state.items()}


CONTAINERS = {
    "deit": lambda state, told: {"model": state, "args": argparse.Namespace(**told)} | NOISE,
    "timm": lambda state, told: {"state_dict": wrong(state), "state_dict_ema": state, "args": told},
    "deit with averages": lambda state, told: {"model": state, "model_ema": wrong(state), "args": told},
    "lightning": lambda state, told: {"state_dict": state, "hyper_parameters": told, "callbacks": {}},
    "module": lambda state, told: {"module": state, "config": told},
    "net": lambda state, told: {"net": state, "acc": 0.9, "cfg": {"model": told}},
    "nested": lambda state, told: {"model": {"state_dict": state}, "hparams": told},
    "averages": lambda state, told: {"weights": state, "ema_weights": wrong(state), "args": told},
}
PREFIXES = ["", "module.", "_orig_mod.", "model.", "backbone.", "module.my_vit.", "net.encoder.0."]
BESIDE = [{}, {"criterion.weight": torch.ones(3)}, {"val_acc.total": torch.ones(1), "decoder.0.weight": torch.ones(2)}]
NAMES = ["ant", "Bee", "cat", "1", "2", "10", "Zebra", "apple", "x9", "x10"]


@st.composite
def files(draw):
    return {
        "container": draw(st.sampled_from([*CONTAINERS])),
        "prefix": draw(st.sampled_from(PREFIXES)),
        "beside": draw(st.sampled_from(BESIDE)),
        "stock": draw(st.sampled_from([None, None, *STOCK])),
        "stated": draw(st.booleans()),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])),
    }


@st.composite
def folders(draw):
    return {
        "names": draw(st.lists(st.sampled_from(NAMES), min_size=CLASSES, max_size=CLASSES, unique=True)),
        "named": draw(st.sampled_from([None, "right", "foreign"])),
        "layout": draw(st.sampled_from(["classes", "part", "wrapped", "inside", "sites"])),
        "stray": draw(st.booleans()),
        "empty": draw(st.booleans()),
    }


def write_file(path, net, made, names):
    state = {made["prefix"] + name: tensor.to(made["dtype"]) for name, tensor in net.state_dict().items()}
    torch.save(CONTAINERS[made["container"]](state | made["beside"], options(net, made, names)), path)


def write_folder(root, made):
    """Labels follow torchvision's order, as DeiT and MAE have trained."""
    names = sorted(made["names"])
    inside = {"inside": "/images", "sites": "/site{}"}.get(made["layout"], "")
    place = root / {"part": "val", "wrapped": "pictures"}.get(made["layout"], "")
    for number, (image, c) in enumerate(PICTURES):
        write_pictures(place, [(image, 0)], [names[c] + inside.format(number % 2)], suffix=f"{number}.png")
    if made["stray"]:
        PICTURES[0][0].save(place / "sheet.png")
    if made["empty"]:
        (place / names[0] / ".cache").mkdir(exist_ok=True)
    return names


def opened(tmp_path, net, made, told):
    """The evaluation, or why it is refused."""
    names = write_folder(tmp_path / "data", told)
    path = tmp_path / (f"{made['stock']}-best.pth" if made["stock"] else "net.pth")
    write_file(path, net, made, {None: None, "right": names, "foreign": FOREIGN}[told["named"]])
    given = {} if made["stock"] else {"model": NAME, "model_args": WIDTHS}
    try:
        return evaluate(**given, ckpt=path, data=tmp_path / "data", batch_size=8)
    except InputError as error:
        return error


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(made=files(), told=folders())
def test_right_on_all_pictures_or_refused(tmp_path_factory, right, made, told):
    plain = write_pictures(tmp_path_factory.mktemp("plain"), PICTURES, "abcd")
    net = right(made["stock"], made["stated"])
    # in a coarse type it may be another network
    top1 = evaluate(copy.deepcopy(net).to(made["dtype"]).float(), data=plain, batch_size=8).top1
    result = opened(tmp_path_factory.mktemp("door"), net, made, told)
    if isinstance(result, InputError):
        assert "\n" not in str(result)
        orders = sorted(told["names"]), sorted(told["names"], key=natural_key)
        assert told["named"] != "right", result
        assert told["named"] or told["layout"] == "sites" or orders[0] != orders[1], result
    else:
        assert told["named"] != "foreign", result
        assert result.top1 == top1
