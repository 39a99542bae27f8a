"""What the user names is shown as it is written: square brackets and colons are no markup."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from rich.table import Table

import prune_realloc
from prune_realloc.cli import console
from prune_realloc.cli.console import image_progress, print_table, said_anew, say, say_notes, show_lines, show_tables

NAMES = ("[/v2]", "[final]cat.png", "[bold]dog", ":smile:", "[link=x]y", "a\\[b]")


@pytest.mark.parametrize("name", NAMES)
def test_text_is_literal(name, capsys):
    table = Table(name, title=f"title {name}", caption=f"caption {name}")
    table.add_row(f"row {name}")
    show_tables(table)
    show_lines(f"line {name}")
    print_table(None, False, f"head {name}", ("", ""), [(f"cell {name}", "")], (f"note {name}",))
    say(f"said {name}")
    say_notes([f"noted {name}"])
    with image_progress(f"doing {name}") as progress:
        progress(1, 1)
    out, err = capsys.readouterr()
    for word in ("title", "caption", "row", "line", "head", "cell"):
        assert f"{word} {name}" in out
    for word in ("note", "said", "noted", "doing"):
        assert f"{word} {name}" in err


def test_there_is_one_console():
    package = Path(prune_realloc.__file__).parent
    makers = [path for path in package.rglob("*.py") if re.search(r"rich\.console|Console\(", path.read_text())]
    assert [path.relative_to(package).as_posix() for path in makers] == ["cli/console.py"]


def test_paths_and_class_names_with_brackets(run_cli, tmp_path):
    data = tmp_path / "images [/v2]"
    for name in ("[bold]cat", ":smile:"):
        (data / name).mkdir(parents=True)
        for i in range(4):
            pixels = np.random.default_rng(i).integers(0, 255, (28, 28), np.uint8)
            Image.fromarray(pixels).save(data / name / f"[final]{i}.png")
    for i in range(14):
        Image.new("L", (28, 28), i).save(data / ":smile:" / f"{i}.png")
    (data / ":smile:" / "[final]9.png").write_bytes(b"broken")
    args = ("--data", data, "--no-labels", "--samples", 23, "--batch-size", 8)
    code, out, err = run_cli("analyze", *args, "-o", tmp_path / "run [red]")
    assert code == 0, err
    assert f"images of {data}" in out
    assert ":smile:/[final]9.png" in err
    assert f"wrote {tmp_path / 'run [red]'}/analysis.safetensors" in err
    code, out, err = run_cli("eval", *args, "--source", "demo")
    assert code == 0, err
    assert f"images of {data}" in out


@pytest.mark.parametrize("terminal", [True, False])
def test_what_takes_minutes_is_said_in_few_lines(monkeypatch, capsys, terminal):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(console, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    tell = said_anew("measuring")
    for number in range(7):
        tell(f"{number} of 7")
    _, err = capsys.readouterr()
    written = [f"measuring: {number} of 7\n" for number in range(7)]
    taken_back = "\x1b[1A\x1b[2K"
    assert err == (taken_back.join(written) if terminal else "".join(written[::3]))  # else by the minute, here 3 x 25 s
