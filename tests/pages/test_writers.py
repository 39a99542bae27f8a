"""One page, three writers: what one of them shows, the others show too."""

import json
import re

from prune_realloc.pages.content import Axis, Chart, Figure, Missing, Page, Panel, Series, Table, table_of
from prune_realloc.pages.writers import SHOWN_ROWS, as_html, as_json, as_markdown


def page(*parts, **more):
    panel = Panel(title="Panel", text="A <text>.", parts=parts)
    return Page(title="T", lines=("first & last",), panels=(panel,), **more)


def line(name, *ys):
    return Series(name=name, points=tuple((float(x), y) for x, y in enumerate(ys)))


def figure(*series):
    chart = Chart(title="chart", x=Axis(label="block"), y=Axis(label="kept"), series=series)
    return Figure(title="Figure", text="What it shows.", drawings=(chart,), table=table_of("kept", [chart]))


def test_every_writer_has_every_sentence_and_number():
    missing = Missing(what="Heads", why="no heads.json", command="prune-realloc heads -o x")
    shown = page(figure(line("Q/K", 0.25, 0.5)), missing=(missing,))
    for content in (as_html(shown), as_markdown(shown), as_json(shown)):
        text = content.decode()
        for word in ("What it shows.", "Q/K", "0.25", "0.5", "no heads.json", "prune-realloc heads -o x"):
            assert word in text, word


def test_what_goes_into_html_is_escaped_in_drawings_too():
    html = as_html(page(figure(line('<b onload="x">', 1.0, 2.0)))).decode()
    assert "<b " not in html
    assert "A &lt;text&gt;." in html
    assert "http" not in html


def test_a_figure_has_a_label_a_text_and_a_table():
    html = as_html(page(figure(line("Q/K", 0.25, 0.5)))).decode()
    assert html.count("<svg") == html.count('role="img" aria-label="chart"') == 1
    assert "<figcaption>What it shows.</figcaption>" in html
    assert "<td>0.25</td>" in html.split("<details>")[1]


def test_the_numbers_of_charts_in_one_table():
    one = Chart(title="a", x=Axis(label="block"), y=Axis(label=""), series=(line("q", 1, 2), line("v", 3)))
    two = Chart(title="b", x=Axis(label="block"), y=Axis(label=""), series=(line("q", 5, 6),))
    found = table_of("t", [one, two])
    assert found.columns == ("block", "a: q", "a: v", "b: q")
    assert found.rows == (("0", "1", "3", "5"), ("1", "2", "", "6"))


def test_thousands_of_rows_stay_readable_and_none_is_lost():
    rows = (*((str(number), "x" * 2000) for number in range(5000)), ("all", "sum"))
    shown = page(Table(title="t", columns=("a", "b"), rows=rows, total=True))
    html, markdown = as_html(shown).decode(), as_markdown(shown).decode()
    left_out = 5000 - SHOWN_ROWS
    assert f"{left_out} more rows are in the JSON" in html
    assert f"{left_out} more rows are in the JSON" in markdown
    assert "<tfoot><tr><td>all</td>" in html
    assert "(2000 letters)" in html
    assert len(html) < 200_000
    assert len(json.loads(as_json(shown))["panels"][0]["parts"][0]["rows"]) == 5001


def test_a_long_line_is_drawn_with_means_of_neighbours():
    html = as_html(page(figure(line("q", *[0.0, 2.0] * 1000)))).decode()
    [points] = re.findall(r'<polyline class="l c0" points="([^"]*)"', html)
    assert len(points.split()) == 200
    assert len({point.split(",")[1] for point in points.split()}) == 1  # the mean of each ten is 1


def test_bytes_are_the_same_each_time():
    assert as_html(page(figure(line("q", 1.0)))) == as_html(page(figure(line("q", 1.0))))
