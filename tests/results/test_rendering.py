from pathlib import Path

import pytest
from jinja2 import UndefinedError

from prune_realloc.results import rendering
from prune_realloc.results.rendering import render

CURVES = {
    "name": "a & b",
    "rows": [{"epoch": 1.0, "top1": 0.5}],
    "best": {"epoch": 1.0, "top1": 0.5},
    "minutes": 1.25,
    "picture": "",
    "formats": {"epoch": ".0f", "top1": ".2%"},
    "settings": '{"data": "<here>"}',
}


def test_the_templates_are_what_lies_beside_the_code():
    folder = Path(rendering.__file__).parent / "templates"
    assert rendering._TEMPLATES.list_templates() == sorted(path.name for path in folder.iterdir())


def test_html_is_escaped_and_numbers_are_written_as_asked():
    page = render("training.html.jinja", **CURVES)
    assert "<title>prune-realloc: a &amp; b</title>" in page
    assert "&lt;here&gt;" in page
    assert "<td>1</td><td>50.00%</td>" in page


def test_markdown_is_not_escaped():
    assert not rendering._TEMPLATES.autoescape("model_card.md.jinja")


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError, match="settings"):
        render("training.html.jinja", **{key: value for key, value in CURVES.items() if key != "settings"})


def test_a_path_in_a_model_card_is_text_and_no_markup():
    text = rendering._TEMPLATES.from_string("{{ path | literal }}").render(path="a_b*[c](d)|`e`\n# _f")
    assert text == r"a_b\*\[c\](d)\|\`e\` \# \_f"
