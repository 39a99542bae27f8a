"""The picture of compared runs."""

import pytest
from support.training import finished_run

from prune_realloc import InputError
from prune_realloc.training.compare import compare
from prune_realloc.training.plot import _literal, write_plot


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_a_plot_has_the_same_bytes_every_time(kind, tmp_path):
    groups = compare(
        [
            finished_run(tmp_path / f"{name}-seed{seed}", seed, 0.5 + seed / 10)
            for name in ("control", "other")
            for seed in (0, 1)
        ]
    )
    for name in ("a", "b"):
        write_plot(groups, tmp_path / f"{name}.{kind}")
    one, two = ((tmp_path / f"{name}.{kind}").read_bytes() for name in ("a", "b"))
    assert hash(one) == hash(two)
    assert len(one) > 1000


def test_a_name_that_is_no_picture_is_refused(tmp_path):
    groups = compare([finished_run(tmp_path / "x-seed0", 0, 0.5)])
    with pytest.raises(InputError, match="txt is no format of pictures"):
        write_plot(groups, tmp_path / "x.txt")


@pytest.mark.parametrize("name", ["run$\\x$", "a$b$c", "_mine"])
def test_names_are_drawn_letter_by_letter(name, tmp_path):
    folders = [finished_run(tmp_path / name, 0, 0.5)]
    write_plot(compare(folders), tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").stat().st_size
    shown = _literal(name)
    assert shown.replace(r"\$", "$").strip() == name
    assert not shown.startswith("_")
