import tempfile
from pathlib import Path

import pytest
import torch
from support.moments import (
    batches_of,
    built,
    case_of,
    halves,
    images_of,
    measured,
    refitted,
    rotated_case,
)

from prune_realloc.core.errors import InputError
from prune_realloc.pruning.cut import cut
from prune_realloc.pruning.refit import refit_


@pytest.fixture
def opened(monkeypatch):
    files = []
    real = tempfile.TemporaryFile

    def keep(*args, **options):
        files.append(real(*args, **options))
        return files[-1]

    monkeypatch.setattr(tempfile, "TemporaryFile", keep)
    return files


def test_the_temporary_file_is_closed(opened):
    case, curves = rotated_case("plain")
    keep = halves(case, curves, "ffn")
    refitted(case, keep)
    assert [file.closed for file in opened] == [True]
    pruned = cut(case.model, case.sites, keep)
    broken = batches_of(torch.zeros(2, 5, 32, 32).double())
    with pytest.raises(RuntimeError, match="channels"):
        refit_(pruned, case.model, case.sites, keep, {}, broken, ridge=True)
    assert [file.closed for file in opened] == [True, True]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(("embed_dim", "images"), [(6, 1), (48, 24)])  # less and more than a file's buffer
def test_a_full_temporary_folder_is_named(monkeypatch, embed_dim, images):
    case = measured(built("plain", embed_dim=embed_dim), batches_of(images_of(2, dtype=torch.float32)))
    files = [Path("/dev/full").open("r+b") for _ in range(1)]  # noqa: SIM115 (closed by what is tested)
    monkeypatch.setattr(tempfile, "TemporaryFile", files.copy().pop)
    with pytest.raises(InputError, match=r"No space left on device\); set TMPDIR"):
        refitted(case, {}, images=images)
    assert files[0].closed


def test_a_missing_temporary_folder_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match=r"nowhere'.*No such file or directory\); set TMPDIR"):
        refitted(case_of("plain"), {})
