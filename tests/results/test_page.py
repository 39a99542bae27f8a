import pytest
from matplotlib.figure import Figure
from support.toy_analysis import make_toy_analysis

from prune_realloc.results.figures import _draw_retention, retention_figure
from prune_realloc.results.page import write_curves, write_report
from prune_realloc.results.summary import summary
from prune_realloc.results.tables import site_table


def test_same_analysis_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_report(make_toy_analysis(), tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["report.html", "retention.png"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_page_is_self_contained_and_escaped(tmp_path):
    analysis = make_toy_analysis(model={"architecture": "<script>alert(1)</script>"}, notes=("a < b",))
    page = write_report(analysis, tmp_path).read_text()
    assert "<script>" not in page
    assert "a &lt; b" in page
    assert 'src="data:image/png;base64,' in page
    assert "http" not in page.replace("http-equiv", "")
    assert (tmp_path / "retention.png").read_bytes() == retention_figure(analysis)
    assert site_table(summary(analysis)).row_count == 2


def test_the_page_says_what_was_taken_and_what_is_guessed(tmp_path):
    taken = {"architecture": {"value": "<deit>", "origin": "the file's name", "guessed": True}}
    page = write_report(make_toy_analysis(taken=taken), tmp_path).read_text()
    assert "<td>architecture</td><td>&lt;deit&gt;</td><td>a guess from the file&#39;s name</td>" in page
    assert "What was taken" not in write_report(make_toy_analysis(), tmp_path).read_text()


def test_the_page_of_a_training(tmp_path):
    row = {"loss": 1.5, "lr": 1e-3, "val_loss": 0.5, "images_per_second": 10.0, "seconds": 30.0}
    rows = [row | {"epoch": float(epoch), "top1": top1} for epoch, top1 in ((1, 0.5), (2, 0.75), (3, 0.25))]
    folder = tmp_path / "<run>"
    folder.mkdir()
    write_curves(rows, {"data": "a < b"}, folder)
    page = (folder / "report.html").read_text()
    assert "<run>" not in page
    assert "a &lt; b" in page
    assert "Epochs: 3. Top-1 25.00% after the last, 75.00% after the best\n(2). Minutes: 1.5." in page
    assert "<td>2</td><td>1.5000</td><td>1.00e-03</td><td>0.5000</td><td>75.00%</td><td>10</td>" in page


def test_only_the_last_epochs_are_listed(tmp_path):
    row = {"loss": 1.5, "lr": 1e-3, "val_loss": 0.5, "images_per_second": 10.0, "seconds": 30.0, "top1": 0.5}
    write_curves([row | {"epoch": float(epoch)} for epoch in range(1, 31)], {}, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert (page.count("<tr><td>"), "<tr><td>11</td>" in page) == (20, True)


def test_a_name_that_is_no_text_is_spelled_out(tmp_path):
    analysis = make_toy_analysis(model={"architecture": "vit"}, notes=("pictures\udcff cannot be read",))
    assert r"pictures\udcff cannot be read" in write_report(analysis, tmp_path).read_text()


def test_the_picture_has_a_line_for_each_axis_that_there_is():
    """Two FFNs of a block are one point, their mean."""
    panel = Figure().subplots()
    _draw_retention(panel, {"embed": 0.5, "blocks.0.ffn": 0.2, "blocks.0.ffn.1": 0.4, "blocks.2.hidden": 0.5})
    found = {line.get_label(): (*line.get_xdata(), *line.get_ydata()) for line in panel.get_lines()}
    assert found == {"FFN": (0, pytest.approx(30)), "hidden": (2, 50)}
