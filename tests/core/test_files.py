import hashlib
import os
from pathlib import Path

import pytest
from support.interruption import killed_after

from prune_realloc.core.errors import InputError
from prune_realloc.core.files import checksums, clear_half_written, write_file, write_files


def test_an_interrupted_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a"
    write_file(path, b"old")

    def interrupt(self, content):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        "os.fdopen",
        lambda handle, mode: type(
            "F", (), {"__enter__": lambda self: self, "__exit__": lambda self, *a: None, "write": interrupt}
        )(),
    )
    with pytest.raises(KeyboardInterrupt):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("changes", range(6))
def test_a_killed_write_never_leaves_files_of_two_sets(tmp_path, changes):
    names = ("a", "b", "c")
    write_files(tmp_path, dict.fromkeys(names, b"old"))
    with killed_after(changes):
        write_files(tmp_path, dict.fromkeys(names, b"new"))
    there = {name: (tmp_path / name).read_bytes() for name in names if (tmp_path / name).exists()}
    assert len({*there.values()}) == 1
    if "c" in there:
        assert there == dict.fromkeys(names, b"old" if changes == 0 else b"new")
    else:
        assert changes < 5  # two removals and three renames
    clear_half_written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(there)
    write_files(tmp_path, dict.fromkeys(names, b"new"))
    assert [(tmp_path / name).read_bytes() for name in names] == [b"new"] * 3


def test_one_file_is_replaced_without_ever_being_away(tmp_path):
    write_file(tmp_path / "a", b"old")
    with killed_after(0):
        write_file(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"


def test_content_reaches_the_disk_before_its_name(tmp_path, monkeypatch):
    synced, replace, fsync = [], os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_ino), fsync(handle)))

    def replaced(source, target):
        assert Path(source).stat().st_ino in synced
        replace(source, target)

    monkeypatch.setattr(os, "replace", replaced)
    write_files(tmp_path, {"a": b"1", "b": b"2"})
    assert synced[-1] == tmp_path.stat().st_ino


def test_a_set_may_lie_in_several_folders(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    write_files(tmp_path, {"one/a": b"1", "two/a": b"2"})
    assert ((tmp_path / "one" / "a").read_bytes(), (tmp_path / "two" / "a").read_bytes()) == (b"1", b"2")
    assert sum(1 for _ in tmp_path.rglob("*")) == 4


def test_what_is_in_the_way_is_named(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(InputError, match=r"/b' cannot be written: Is a directory"):
        write_files(tmp_path, {"a": b"1", "b": b"2"})
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


def test_checksums_are_those_of_other_tools():
    assert checksums({"a": b"abc"}) == {"a": hashlib.sha256(b"abc").hexdigest()}
