"""The verb `grow` on the command line."""

import json

from prune_realloc.results.trail import Round, Trail


def test_a_finished_trail_is_shown(run_cli, tmp_path, monkeypatch):
    args = {"embed_dim": [16, 24], "depth": [1, 2], "num_heads": 2, "qk_dim": [8, [8, 16]]}
    found = Round(args=args, cost={"params": 12_345, "macs": 67_890}, top1=0.5, loss=1.25)
    seen = []

    def grow(variant, config, images, **more):
        seen.append((variant, config.epochs, images.data, images.samples, more["rounds"]))
        return Trail(settings={}, rounds=(found,), notes=("v: no units",))

    monkeypatch.setattr("prune_realloc.verbs.grow.grow", grow)
    flags = ("grow", "x", "--data", "demo", "--samples", 64, "--rounds", 2, "--set", "epochs=3", "-o", tmp_path)
    code, out, err = run_cli(*flags)
    assert code == 0
    assert seen == [("x", 3, "demo", 64, 2)]
    row = ("0", "16 24", "8 8/16", "8 12", "32 48", "12,345", "67,890", "50.00%", "1.2500")
    assert " ".join(out.splitlines()[-1].split()) == " ".join(row)
    assert "note: v: no units" in err
    assert json.loads(run_cli(*flags, "--json")[1])["rounds"][0]["cost"] == {"params": 12_345, "macs": 67_890}


def test_what_cannot_grow_is_one_line(run_cli, tmp_path):
    code, out, err = run_cli("grow", tmp_path / "none", "--data", "demo", "-o", tmp_path / "grown")
    assert (code, out) == (2, "")
    assert "does not exist; give the folder of an EfficientViT (MSRA)" in err
    assert not (tmp_path / "grown").exists()
