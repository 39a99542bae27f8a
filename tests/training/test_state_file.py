"""A folder that holds a state: of the same run, or of another."""

import shutil

import pytest
from support.training import (
    SMALL,
    Killed,
    described,
    dies_after,
    run,
)

from prune_realloc import InputError
from prune_realloc.core.names import STATE_FILE
from prune_realloc.training.config import train_config
from prune_realloc.training.train import train


def test_a_finished_run_returns_its_result_again(variant, tmp_path):
    first = run(variant, tmp_path)
    state = (tmp_path / STATE_FILE).read_bytes()
    assert run(variant, tmp_path).top1 == first.top1
    assert hash((tmp_path / STATE_FILE).read_bytes()) == hash(state)  # of bytes, pytest would draw the difference


def test_what_changes_speed_only_may_change_from_start_to_start(variant, tmp_path):
    with pytest.raises(Killed):
        run(variant, tmp_path / "run", report=dies_after(1), save_seconds=0.0)
    with pytest.raises(InputError, match=r"config\.grad_checkpointing is False there"):  # batch norms differ
        run(variant, tmp_path / "run", grad_checkpointing=True)
    again = run(variant, tmp_path / "run", workers=1)
    assert again.loss == run(variant, tmp_path / "whole").loss


def test_another_run_in_the_folder_is_refused(variant, tmp_path):
    run(variant, tmp_path, epochs=1)
    with pytest.raises(InputError, match=r"holds another run: config.lr is 0.002 there, 0.001 now"):
        run(variant, tmp_path, epochs=1, lr=1e-3)
    with pytest.raises(InputError, match=r"holds another run: model_args.drop_rate is None there, 0.1 now"):
        train(
            variant,
            train_config(**SMALL | {"epochs": 1}),
            data="demo",
            out=tmp_path,
            samples=320,
            device="cpu",
            eval_split="held-out",
            model_args={"drop_rate": 0.1},
        )
    (tmp_path / "other").mkdir()
    other = described(tmp_path / "other", qk_dim=8)
    content = (variant / "config.json").read_bytes()
    try:  # the same folder, emitted anew with other widths
        shutil.copy(other / "config.json", variant / "config.json")
        with pytest.raises(InputError, match="the network that is given is not the one that the run began with"):
            run(variant, tmp_path, epochs=1)
    finally:
        (variant / "config.json").write_bytes(content)
    (tmp_path / STATE_FILE).write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"is damaged .*; remove it to start again"):
        run(variant, tmp_path, epochs=1)
