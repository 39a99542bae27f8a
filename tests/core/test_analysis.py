import json
import shutil

import numpy as np
import pytest
from support.interruption import killed_after
from support.memory import make_memory
from support.toy_analysis import make_toy_analysis

from prune_realloc.core.analysis import Analysis
from prune_realloc.core.errors import InputError


def test_round_trip(tmp_path):
    analysis = make_toy_analysis()
    analysis.save(tmp_path / "run")
    assert Analysis.load(tmp_path / "run") == analysis
    assert Analysis.load(tmp_path / "run") != make_toy_analysis(seed=1)
    assert Analysis.load(tmp_path / "run") != make_toy_analysis(scores=analysis.scores | {"embed": np.zeros(4)})
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["analysis.json", "analysis.safetensors"]


def test_the_formula_of_the_memory_is_kept_and_checked(tmp_path):
    analysis = make_toy_analysis()
    remembered = make_toy_analysis(memory=make_memory(analysis, 5))
    remembered.save(tmp_path)
    assert Analysis.load(tmp_path) == remembered != analysis
    meta = json.loads((tmp_path / "analysis.json").read_text())
    for damaged in (
        {},
        meta["memory"] | {"moments": []},
        meta["memory"] | {"number": "four"},
        meta["memory"] | {"buffers": -1},
    ):
        (tmp_path / "analysis.json").write_text(json.dumps(meta | {"memory": damaged}))
        with pytest.raises(InputError, match="the analysis is damaged"):
            Analysis.load(tmp_path)


def test_same_analysis_same_bytes(tmp_path):
    for name in ("a", "b"):
        make_toy_analysis().save(tmp_path / name)
    for path in sorted((tmp_path / "a").iterdir()):
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_damaged_analyses_are_refused(tmp_path):
    make_toy_analysis().save(tmp_path)
    meta = json.loads((tmp_path / "analysis.json").read_text())
    for change, complaint in (({"format_version": 99}, "format_version 99"), (None, "damaged")):
        text = "{" if change is None else json.dumps(meta | change)
        (tmp_path / "analysis.json").write_text(text)
        with pytest.raises(InputError, match=complaint):
            Analysis.load(tmp_path)
    (tmp_path / "analysis.json").write_text(json.dumps(meta))
    for change, complaint in (("terms", "damaged"), ("scorer", "damaged"), ("widths", "damaged")):
        (tmp_path / "analysis.json").write_text(json.dumps({k: v for k, v in meta.items() if k != change}))
        with pytest.raises(InputError, match=complaint):
            Analysis.load(tmp_path)
    (tmp_path / "analysis.json").write_text(json.dumps(meta))
    (tmp_path / "analysis.safetensors").write_bytes(b"short")
    with pytest.raises(InputError, match="damaged"):
        Analysis.load(tmp_path)
    (tmp_path / "analysis.safetensors").unlink()
    with pytest.raises(InputError, match=r"no analysis\.safetensors"):
        Analysis.load(tmp_path)


def without_checksum(folder):
    """As the files were before they named each other."""
    meta = json.loads((folder / "analysis.json").read_text())
    assert meta.pop("files_sha256")
    (folder / "analysis.json").write_text(json.dumps(meta))


def test_an_analysis_without_checksum_still_loads(tmp_path):
    make_toy_analysis().save(tmp_path)
    without_checksum(tmp_path)
    assert Analysis.load(tmp_path) == make_toy_analysis()


@pytest.mark.parametrize("before", ["as now", "without checksum"])
@pytest.mark.parametrize("changes", range(4))
def test_a_killed_save_never_mixes_two_runs(tmp_path, before, changes):
    old, new = make_toy_analysis(), make_toy_analysis(scores=make_toy_analysis().scores | {"embed": np.ones(4)}, seed=1)
    old.save(tmp_path)
    if before == "without checksum":
        without_checksum(tmp_path)
    with killed_after(changes):
        new.save(tmp_path)
    if changes in (0, 3):  # removal of the facts, renames of scores and facts
        assert Analysis.load(tmp_path) == (old if changes == 0 else new)
    else:
        with pytest.raises(InputError, match=r"writing it was interrupted; run `analyze"):
            Analysis.load(tmp_path)
    new.save(tmp_path)
    assert Analysis.load(tmp_path) == new


@pytest.mark.parametrize("copied", ["analysis.safetensors", "analysis.json"])
def test_files_of_two_runs_are_refused(tmp_path, copied):
    make_toy_analysis().save(tmp_path / "one")
    make_toy_analysis(scores=make_toy_analysis().scores | {"embed": np.ones(4)}, seed=1).save(tmp_path / "two")
    shutil.copy(tmp_path / "two" / copied, tmp_path / "one" / copied)
    with pytest.raises(InputError, match=r"scores and facts are of two runs; run `analyze` again"):
        Analysis.load(tmp_path / "one")
