"""The page in a browser: what only a browser can tell. Skipped where Debian's Chromium, or axe-core, is not there."""

from pathlib import Path

import pytest
from support.browser import CHROMIUM, probed
from support.run_folder import make_run_folder

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


@pytest.mark.skipif(not AXE.exists(), reason="needs axe-core (npm install --no-save axe-core)")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page, scheme):
    found, _ = probed(page, AXE_PROBE.replace("AXE_FILE", repr(AXE.as_uri())), width=390, scheme=scheme)
    assert found == []
