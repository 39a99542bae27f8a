"""Flags follow from the fields of a recipe's parts."""

import re
import subprocess
import sys
from typing import Annotated, Any

import pytest
import typer
from typer.testing import CliRunner

from prune_realloc.cli.app import VERBS
from prune_realloc.cli.flags import Flags, with_flags
from prune_realloc.cli.options import ALL_DATA, ALL_SOURCE, data_flags, source_flags
from prune_realloc.core.cost import KINDS
from prune_realloc.recipe.document import Data, Source
from prune_realloc.recipe.options import SOURCE_OPTIONS


def run(verb, *args):
    app = typer.Typer(rich_markup_mode=None)
    app.command()(with_flags(verb))
    return CliRunner().invoke(app, list(map(str, args)), catch_exceptions=False)


def flags_of(verb):
    names = re.findall(r"^  (?:-\w, )?(--[\w-]+)", run(VERBS[verb], "--help").output, re.MULTILINE)
    return set(names)


def test_every_field_of_source_and_data_has_a_flag():
    assert set(ALL_SOURCE) == set(SOURCE_OPTIONS)
    assert set(ALL_DATA) == set(Data.model_fields)


def test_values_reach_the_verb_as_checked_parts():
    seen = []

    def verb(
        source: Annotated[Source, source_flags(*ALL_SOURCE, path=True)],
        data: Annotated[Data, data_flags(*ALL_DATA, defaults={"split": "validation"})],
        given: Annotated[dict[str, Any], Flags(part=Data, fields=("samples",), panel="", optional=True)],
    ) -> None:
        seen.append((source, data, given))

    args = "a.pth --ema --img-size 32,64 --model-arg drop_path_rate=1e-1 --model-arg qkv_bias=on --no-labels"
    assert run(verb, *args.split(), "--mean", "0.5,1", "--crop-pct", 0.9).exit_code == 0
    source, data, given = seen[0]
    assert source == Source(
        ckpt="a.pth", ema=True, img_size=(32, 64), model_args={"drop_path_rate": 0.1, "qkv_bias": "on"}
    )
    assert data == Data(split="validation", labels=False, preprocess={"mean": [0.5, 1.0], "crop_pct": 0.9})
    assert given == {}
    run(verb, "--img-size", 32, "--ckpt", "b.pth")
    assert (seen[1][0].img_size, seen[1][0].ckpt) == (32, "b.pth")


def test_each_kind_of_cost_is_a_flag_of_plan_and_of_emit():
    assert {f"--{kind}" for kind in KINDS} | {f"--keep-{kind}" for kind in KINDS} <= flags_of("plan")
    assert {f"--{kind}" for kind in KINDS} <= flags_of("emit")


@pytest.mark.parametrize(("verb", "flags"), [("plan", ("--keep-joules", "--joules")), ("emit", ("--joules",))])
def test_a_further_kind_of_cost_needs_no_edit_here(verb, flags):
    probe = f"""
import sys
from prune_realloc.core.cost import KINDS, CostKind
KINDS["joules"] = CostKind(name="joules", label="J", noun="joules", example="2K", emitted_example="1K")
from prune_realloc.cli.app import main
sys.argv = ["prune-realloc", "{verb}", "--help"]
main()
"""
    out = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False).stdout
    # what stands behind a flag, TEXT or <text>, is typer's
    assert all(f"  {flag} " in out for flag in flags), out


def test_a_checkpoint_is_given_once(run_cli):
    code, out, err = run_cli("analyze", "a.pth", "--ckpt", "b.pth")
    assert (code, out) == (2, "")
    assert err == "prune-realloc: ckpt is given twice, with its flag and without; leave one out\n"
