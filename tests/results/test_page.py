from support.analysis import make_analysis

from prune_realloc.results.figures import retention_figure
from prune_realloc.results.page import write_report
from prune_realloc.results.summary import summary
from prune_realloc.results.tables import site_table


def test_same_analysis_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_report(make_analysis(), tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["report.html", "retention.png"]
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_the_page_is_self_contained_and_escaped(tmp_path):
    analysis = make_analysis(model={"architecture": "<script>alert(1)</script>"}, notes=("a < b",))
    page = write_report(analysis, tmp_path).read_text()
    assert "<script>" not in page
    assert "a &lt; b" in page
    assert 'src="data:image/png;base64,' in page
    assert "http" not in page.replace("http-equiv", "")
    assert (tmp_path / "retention.png").read_bytes() == retention_figure(analysis)
    assert site_table(summary(analysis)).row_count == 2
