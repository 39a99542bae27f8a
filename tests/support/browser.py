"""Debian's Chromium on a page, through its command line: it prints what a probe inside the page found."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-extensions",
    "--allow-file-access-from-files",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # no network
    "--enable-logging=stderr",
    "--virtual-time-budget=20000",
    "--dump-dom",
)
_HARNESS = """<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="{scheme}">
<iframe src="{page}" style="width:{width}px;height:800px;border:0"></iframe><pre></pre>
<script>
document.querySelector("iframe").addEventListener("load", async (event) => {{
  const view = event.target.contentWindow, page = view.document;
  let found;
  try {{ found = await (async () => {{ {probe} }})(); }} catch (error) {{ found = {{ error: String(error) }}; }}
  document.querySelector("pre").textContent = JSON.stringify(found);
}});
</script>"""


def probed(page: Path, probe: str, *, width: int, scheme: str = "light") -> tuple[Any, list[str]]:
    """What the probe returns, and the lines on the page's console.

    Args:
        probe: body of a JavaScript function that sees `page`, the document, and `view`, its window.
        width: of the window, in CSS pixels; Chromium's own windows are never as narrow as a phone.
    """
    assert CHROMIUM is not None
    harness = page.with_name(f"probe-{width}-{scheme}.html")
    harness.write_text(_HARNESS.format(page=page.name, width=width, scheme=scheme, probe=probe))
    command = [CHROMIUM, *_FLAGS, f"--user-data-dir={page.parent / 'profile'}", harness.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    [found] = re.findall(r"<pre>(.*?)</pre>", done.stdout, re.DOTALL)
    return json.loads(unescape(found)), [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
