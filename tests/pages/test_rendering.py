from pathlib import Path

import pytest
from jinja2 import UndefinedError

from prune_realloc.pages import rendering
from prune_realloc.pages.rendering import render


def test_the_templates_are_what_lies_beside_the_code():
    folder = Path(rendering.__file__).parent / "templates"
    assert rendering._TEMPLATES.list_templates() == sorted(path.name for path in folder.iterdir())


def test_markdown_is_not_escaped():
    assert not rendering._TEMPLATES.autoescape("model_card.md.jinja")


def test_a_value_that_is_missing_is_an_error():
    with pytest.raises(UndefinedError, match="page"):
        render("page.md.jinja")


def test_a_path_in_a_model_card_is_text_and_no_markup():
    text = rendering._TEMPLATES.from_string("{{ path | literal }}").render(path="a_b*[c](d)|`e`\n# _f")
    assert text == r"a_b\*\[c\](d)\|\`e\` \# \_f"
