"""Settings, their presets and the table of both."""

from pathlib import Path

import pytest

from prune_realloc import InputError
from prune_realloc.training.config import train_config


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
