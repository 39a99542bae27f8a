"""The page in a browser: what only a browser can tell. Skipped where Debian's Chromium, or axe-core, is not there."""

from pathlib import Path

import pytest
from support.browser import CHROMIUM, probed
from support.run_folder import make_run_folder

from prune_realloc.pages.content import Axis, Chart, Figure, Page, Panel, Series, table_of
from prune_realloc.pages.writers import as_html
from prune_realloc.reporting.report import report

AXE = Path(__file__).parents[2] / "node_modules" / "axe-core" / "axe.min.js"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium (apt-get install chromium)")
PROBE = """
const moved = {bubbles: true, clientX: 50, clientY: 300};
const over = (each) => each.dispatchEvent(new view.PointerEvent("pointerover", moved));
const point = page.querySelector("circle[data-tip]"), tip = page.getElementById("tip");
over(point);
const said = [tip.hidden, tip.textContent, point.dataset.tip];
over(page.querySelector("h1"));
const place = (table) => [...table.tHead.rows[0].cells].findIndex((each) => each.textContent === "kept");
const table = [...page.querySelectorAll("table")].find((each) => place(each) >= 0), column = place(table);
const values = () => [...table.tBodies[0].rows].map((row) => Number(row.cells[column].textContent));
const button = table.tHead.rows[0].cells[column].querySelector("button");
button.click();
const up = values(), sorted = table.tHead.rows[0].cells[column].getAttribute("aria-sort");
button.click();
return {
  wide: page.documentElement.scrollWidth - page.documentElement.clientWidth,
  drawn: Math.max(...[...page.querySelectorAll("svg")].map((each) => each.getBoundingClientRect().right)),
  ground: view.getComputedStyle(page.body).backgroundColor,
  said, hiddenAgain: tip.hidden, up, down: values(), sorted,
};
"""
TEXTS_PROBE = """
const wrong = [];
for (const each of page.querySelectorAll("figure .drawings svg")) {
  const own = each.getBoundingClientRect(), texts = [...each.querySelectorAll("text")];
  const boxes = texts.map((text) => text.getBoundingClientRect());
  for (const [at, one] of boxes.entries()) {
    const named = each.getAttribute("aria-label") + ": " + texts[at].textContent;
    if (one.left < own.left || one.right > own.right) wrong.push(named + " is cut off");
    for (const [other, box] of boxes.slice(0, at).entries()) {
      const apart = one.right <= box.left || box.right <= one.left || one.bottom <= box.top || box.bottom <= one.top;
      if (!apart) wrong.push(named + " lies on " + texts[other].textContent);
    }
  }
}
return wrong;
"""
AXE_PROBE = """
const script = page.createElement("script");
script.src = AXE_FILE;
await new Promise((resolve) => { script.onload = resolve; page.head.append(script); });
for (const each of page.querySelectorAll("details")) each.open = true;
const found = await view.axe.run(page);
return found.violations.map((each) => [each.id, each.nodes.slice(0, 3).map((node) => node.html.slice(0, 200))]);
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    (folder / "report.html").write_bytes(as_html(report([make_run_folder(folder / "run")])))
    return folder / "report.html"


@pytest.mark.parametrize(
    ("width", "scheme", "ground"), [(1280, "light", "rgb(255, 255, 255)"), (390, "dark", "rgb(23, 20, 18)")]
)
def test_nothing_scrolls_sideways_and_hovering_and_sorting_work(page, width, scheme, ground):
    found, console = probed(page, PROBE, width=width, scheme=scheme)
    assert (console, found.get("error")) == ([], None)
    assert (found["wide"], found["ground"]) == (0, ground), found
    assert 0 < found["drawn"] <= width
    hidden, shown, tip = found["said"]
    assert (hidden, shown, found["hiddenAgain"]) == (False, tip, True)
    assert found["up"] == sorted(found["up"])
    assert found["down"] == sorted(found["up"], reverse=True)
    assert found["sorted"] == "ascending"


def test_no_words_of_a_drawing_are_cut_off_or_lie_on_others(tmp_path):
    """Long marks on both axes: of losses, of large networks, and of a roofline that ends at 1000."""
    ends = [(1e-4, 1e3), (1.23e-4, 1.37e-4), (-1.5e5, 2.5e5), (0.0, 2.5e-4), (-0.002, 0.0021)]
    charts = tuple(
        Chart(
            title=f"{low:g} to {high:g}, {log}",
            x=Axis(label="operations per byte", log=log),
            y=Axis(label="billion operations a second", log=log),
            series=(Series(name="a", points=((low, low), (high, high))),),
        )
        for low, high in ends
        for log in (False, True)
        if low > 0 or not log
    )
    figure = Figure(title="f", text="f", drawings=charts, table=table_of("t", charts))
    page = Page(title="p", lines=(), panels=(Panel(title="p", text="p", parts=(figure,)),))
    (tmp_path / "page.html").write_bytes(as_html(page))
    assert probed(tmp_path / "page.html", TEXTS_PROBE, width=1280)[0] == []


def test_no_words_of_the_report_are_cut_off_or_lie_on_others(page):
    assert probed(page, TEXTS_PROBE, width=390)[0] == []


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core (npm install --no-save axe-core)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page, scheme):
    found, _ = probed(page, AXE_PROBE.replace("AXE_FILE", repr(AXE.as_uri())), width=390, scheme=scheme)
    assert found == []
