import re

import pytest

from prune_realloc.pages.charts import WIDTH, drawn, swatch
from prune_realloc.pages.content import Axis, Bars, Boxes, Chart, Heat, Series
from prune_realloc.pages.scales import Scale


def chart(*points, log=False, **more):
    return Chart(
        title="t", x=Axis(label="x"), y=Axis(label="y", log=log), series=(Series(name="s", points=points, **more),)
    )


def test_marks_are_round_and_inside():
    assert Scale(Axis(label="", low=0, high=100), [3.0], 0, 1).marks() == [0, 20, 40, 60, 80, 100]
    assert Scale(Axis(label="", whole=True), [1.0, 3.0], 0, 1).marks() == [1, 2, 3]
    assert Scale(Axis(label="", log=True), [2e-3, 5.0], 0, 1).marks() == pytest.approx([1e-3, 1e-2, 0.1, 1, 10])
    scale = Scale(Axis(label="", log=True), [1e-3, 10.0], 0, 100)
    assert [scale.place(value) for value in (1e-3, 0.1, 10)] == pytest.approx([0, 50, 100])


def test_one_value_alone_has_a_scale():
    for log in (False, True):
        assert Scale(Axis(label="", log=log), [7.0], 0, 100).place(7.0) == pytest.approx(50, abs=40)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_what_cannot_be_drawn_is_left_out(bad):
    svg = drawn(chart((1.0, bad), (2.0, 1.0), (3.0, 10.0), log=True), {"s": 0}, 1)
    assert svg.count("<circle") == 2
    assert "nan" not in svg
    assert "no numbers" in drawn(chart((1.0, float("nan"))), {"s": 0}, 1)


def test_every_point_says_its_numbers_on_hover():
    assert 'data-tip="s: x 1, y 2.5"' in drawn(chart((1.0, 2.5)), {"s": 0}, 1)
    assert 'data-tip="mine"' in drawn(chart((1.0, 2.5), tips=("mine",)), {"s": 0}, 1)


def test_names_differ_in_shape_and_not_only_in_colour():
    shapes = [swatch("s", place, [chart((1.0, 1.0))]).split("class=")[0][-10:] for place in range(2)]
    assert shapes[0] != shapes[1]


def test_bars_are_to_scale():
    bars = Bars(title="t", unit="%", rows=(("a", (("p", 25.0), ("q", 25.0))),), reach=100)
    widths = [float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', drawn(bars, {"p": 0, "q": 1}, 1))]
    assert widths == pytest.approx([(WIDTH - 60) / 4] * 2)


def test_boxes_are_to_the_scale_of_the_widest_of_the_figure():
    boxes = Boxes(title="t", stages=(("stage 0", (("channels", 50, "50 channels"), ("FFN", 100, "FFN 100"))),))
    svg = drawn(boxes, {"channels": 0, "FFN": 1}, 200)
    frame, bar = (float(width) for width in re.findall(r'<rect[^>]* width="([\d.]+)"', svg))
    assert (frame, bar) == pytest.approx(((WIDTH - 12) / 4, (WIDTH - 12) / 2))


def test_a_matrix_of_heads():
    svg = drawn(Heat(title="t", matrix=((1.0, -0.25), (-0.25, 1.0))), {}, 1)
    assert svg.count("fill-opacity:0.00") == svg.count("fill-opacity:1.00") == 2
    assert 'data-tip="heads 0 and 1: -0.250"' in svg
