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
from prune_realloc.pruning.streams import Streams


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


def test_a_refit_writes_each_stream_once_for_each_branch_and_the_file_holds_one_copy(monkeypatch):
    case, curves = rotated_case("plain")
    seen, leave = [], Streams.__exit__

    def left(streams, *error):
        seen.append((streams.written, streams.file.seek(0, 2)))
        leave(streams, *error)

    monkeypatch.setattr(Streams, "__exit__", left)
    refitted(case, halves(case, curves, "ffn", "v"), images=8)
    branches, both = (
        2 * len(case.model.blocks),
        2 * 8 * 17 * 48 * 8,
    )  # source and model: images, tokens, channels, bytes
    assert seen == [(both * (branches + 1), both)]


def test_one_side_can_be_replaced():
    x, y = torch.arange(6.0).reshape(2, 3), torch.arange(4.0)
    with Streams(x) as streams:
        streams.append(x, y)
        streams.append(y, x)
        streams.replace(0, x=x + 1)
        streams.replace(1, y=torch.ones(2, 5))  # of another shape: it takes another place
        streams.lead_on(lambda y: 2 * y)
        found = [(a.tolist(), b.tolist()) for _, a, b in streams]
    assert found == [((x + 1).tolist(), (2 * y).tolist()), (y.tolist(), torch.full((2, 5), 2.0).tolist())]
