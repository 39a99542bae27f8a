import pytest
from matplotlib.figure import Figure

from prune_realloc.results.figures import _draw_retention


def test_the_picture_has_a_line_for_each_axis_that_there_is():
    """Two FFNs of a block are one point, their mean."""
    panel = Figure().subplots()
    _draw_retention(panel, {"embed": 0.5, "blocks.0.ffn": 0.2, "blocks.0.ffn.1": 0.4, "blocks.2.hidden": 0.5})
    found = {line.get_label(): (*line.get_xdata(), *line.get_ydata()) for line in panel.get_lines()}
    assert found == {"FFN": (0, pytest.approx(30)), "hidden": (2, 50)}
