"""The pages of the documents, and the commands that they show."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "examples").rglob("*.md"))]
_SHOWN = re.compile(r"^(?:    )?(?:\.venv/bin/)?prune-realloc ((?:.*\\\n)*[^\n]*?)(?:\s+#.*)?$", re.MULTILINE)
_IN_A_TABLE = re.compile(r"^\|[^|]*\| `prune-realloc ([^`]+)`", re.MULTILINE)


def commands_of(page: Path) -> list[str]:
    """What stands behind `prune-realloc`, line by line, and then what tables show."""
    text = page.read_text()
    return [found[1].replace("\\\n", " ") for shown in (_SHOWN, _IN_A_TABLE) for found in shown.finditer(text)]


def blocks_of(page: Path) -> list[str]:
    """The blocks of Python."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
