import pytest
from support.variants import FOLDER, old_variant

from prune_realloc.results.model_card import model_card


def card_of(name, *, timed=False, source="vit_tiny_patch16_224", inherited=None):
    return model_card(old_variant(timed=timed), name, f"variants/{name}", source, inherited)


@pytest.mark.parametrize("name", ["realloc", "control"])
def test_the_card_is_as_it_has_been(name):
    assert card_of(name) == (FOLDER / name / "model_card.md").read_text()


def test_latency_has_its_rows_and_its_words():
    lines = card_of("realloc", timed=True).splitlines()
    rows = [line for line in lines if line.startswith("| ms")]
    assert rows == ["| ms at batch 1 | 2.00 | 4.00 |", "| ms at batch 32 | 4.00 | 8.00 |"]
    after = lines.index(rows[-1])
    words = "faster than control (2.00 times its speed, 2.00 to 2.00)."
    assert lines[after + 1 : after + 4] == [
        "",
        "Latency: deploy form, random weights, Abacus (cpu), 2 threads, torch 2; median. "
        f"eager, batch 1: realloc is {words} eager, batch 32: realloc is {words}",
        "",
    ]


def test_the_card_says_where_weights_and_widths_come_from():
    text = card_of("realloc", source=None, inherited="ancestor_<1>.pth")
    assert "what pruning kept of its source. Depth" in text
    assert r"It starts with what survives of the weights of ancestor\_\<1\>.pth, to be retrained." in text
    assert "pretrained=True)" in text
