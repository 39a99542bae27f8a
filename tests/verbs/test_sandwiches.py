"""Networks of one cost with other shares of attention layers: what is measured, and what is trained."""

import json
from types import SimpleNamespace

from prune_realloc import load_model
from prune_realloc.training.config import TrainConfig
from prune_realloc.verbs import sandwiches as verb


def test_each_network_is_trained_from_new_weights_and_its_accuracy_is_in_the_table(tmp_path, monkeypatch):
    seen = []

    def train(source, config, *, out, **more):
        seen.append((json.loads((source / "config.json").read_text())["model_args"], config.epochs, more["data"]))
        return SimpleNamespace(top1=0.25 * len(seen))

    monkeypatch.setattr(verb, "train", train)
    found = verb.sandwiches(
        load_model(), (0.4, 0.2), batch_sizes=(1,), seconds=0, data="demo", config=TrainConfig(epochs=2), out=tmp_path
    )
    assert seen == [(each.args, 2, "demo") for each in found.networks]
    assert [row[-1] for row in found.rows()] == ["25.00%", "50.00%"]
    assert found.columns()[-1] == "top-1"
    assert len({len(row) for row in (found.columns(), *found.rows())}) == 1
    assert not list(tmp_path.rglob("*.safetensors"))  # no weights of chance lie there as if they were trained
