"""The files of a network's folder belong together."""

import json

import pytest
import safetensors.torch
import timm
import torch
from support.interruption import killed_after
from support.networks import build

from prune_realloc.checkpoints.load import load_model, load_pruned
from prune_realloc.checkpoints.save import save_pruned
from prune_realloc.core.errors import InputError
from prune_realloc.runtime.networks import model_identity


def test_a_folder_names_its_weights_and_loads_as_before(tmp_path, caplog):
    save_pruned(build(), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert [*config["files_sha256"]] == ["model.safetensors"]
    found = load_pruned(tmp_path)
    assert model_identity(found)["weights_sha256"] == model_identity(build())["weights_sha256"]
    by_timm = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    assert all(torch.equal(by_timm.state_dict()[name], tensor) for name, tensor in found.state_dict().items())
    del config["files_sha256"]  # as it was before
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert model_identity(load_pruned(tmp_path)) == model_identity(found)
    assert not caplog.messages


def test_weights_that_were_trained_further_are_taken_and_said(tmp_path, caplog):
    save_pruned(build(), tmp_path)
    net = load_pruned(tmp_path)
    with torch.no_grad():
        net.head.bias.add_(1)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "model.safetensors")
    assert torch.equal(load_model(ckpt=tmp_path).head.bias, net.head.bias)
    (message,) = caplog.messages
    assert "model.safetensors' is another file than the config.json beside it" in message


def test_a_changed_network_has_the_license_of_its_source_and_not_its_tag(tmp_path):
    net = build()
    net.pretrained_cfg = net.pretrained_cfg | {"license": "cc-by-nc-4.0", "tag": "mae"}
    for source, folder in ((net, tmp_path / "once"), (None, tmp_path / "twice")):
        save_pruned(source or load_pruned(tmp_path / "once"), folder)
        stated = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
        assert stated["license"] == "cc-by-nc-4.0"
        assert stated["notes"] == ["license: that of the weights from which these were made"]
        assert "tag" not in stated
        by_timm = timm.create_model(f"local-dir:{folder}", pretrained=True).pretrained_cfg
        assert (by_timm["license"], by_timm.get("tag")) == ("cc-by-nc-4.0", None)
    net.pretrained_cfg = net.pretrained_cfg | {"license": None}
    save_pruned(net, tmp_path / "none")
    stated = json.loads((tmp_path / "none" / "config.json").read_text())["pretrained_cfg"]
    assert {"license", "notes"} & stated.keys() == set()


@pytest.mark.parametrize("changes", range(9))
def test_a_killed_save_leaves_the_old_network_the_new_one_or_none(tmp_path, changes, caplog):
    old, new = build(), build()
    with torch.no_grad():
        new.head.bias.add_(1)
    for content, net in ((b"old", old), (b"new", new)):
        with killed_after(changes if net is new else 99):
            save_pruned(net, tmp_path, {"recipe.yaml": content, "result.json": content})
    if 0 < changes < 8:  # four removals and four renames
        with pytest.raises(InputError, match=r"without config\.json"):
            load_pruned(tmp_path)
    else:
        name, same = (b"old", old) if changes == 0 else (b"new", new)
        assert (tmp_path / "recipe.yaml").read_bytes() == (tmp_path / "result.json").read_bytes() == name
        assert torch.equal(load_pruned(tmp_path).head.bias, same.head.bias)
    assert not caplog.messages


def test_a_network_written_over_another_leaves_nothing_of_it(tmp_path):
    save_pruned(build(), tmp_path, {"recipe.yaml": b"of the first", "result.json": b"{}"})
    save_pruned(build(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
