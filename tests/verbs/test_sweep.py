"""A sweep: every point is what `apply` makes of that budget, from one examination."""

import json

import pytest
import torch
from support.networks import build

from prune_realloc import apply, build_recipe, load_recipe, sweep
from prune_realloc.core.errors import InputError
from prune_realloc.results.curve import curve_columns, curve_figure, curve_rows
from prune_realloc.verbs import staged
from prune_realloc.verbs import sweep as verb

BUDGETS = (0.8, 0.5)


def batches(labelled=True):
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(48, 3, 32, 32, generator=generator), torch.arange(48) % 5
    return [(x, y) if labelled else (x,) for x, y in zip(images.split(16), labels.split(16), strict=True)]


def recipe(**more):
    return build_recipe({"budget": {"keep_params": 0.7}} | more)


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sweep")
    model = build()
    before = {name: x.clone() for name, x in model.state_dict().items()}
    told = []
    found = sweep(recipe(), budgets=BUDGETS, model=model, batches=batches(), out=folder, report=told.append)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert tuple(told) == found.points
    return found, folder, model


def test_every_point_is_what_apply_makes_of_its_budget(swept):
    found, _, model = swept
    assert [point.budget for point in found.points] == list(BUDGETS)
    for point in found.points:
        one = apply(recipe(budget={"keep_params": point.budget}), model=model, batches=batches(), timed=False)
        assert one.recipe == point.recipe
        numbers = one.summary()
        for name in ("params", "macs", "top1", "agreement", "kl", "predicted_damage"):
            assert numbers[name] == pytest.approx(point.numbers[name], rel=1e-4, abs=1e-6), name
        assert set(numbers["notes"]) == {*point.numbers["notes"], *found.notes}
        assert point.numbers["params"]["achieved"] <= point.budget * point.numbers["params"]["source"]


def test_the_control_beside_a_point_is_what_apply_makes_of_uniform_widths():
    found = sweep(recipe(), budgets=(0.805,), model=build(), batches=batches())
    wanted = recipe(budget={"keep_params": 0.805}, allocation="uniform")
    uniform = apply(wanted, model=build(), batches=batches(), timed=False).summary()
    for name in ("params", "macs", "top1", "agreement", "kl"):
        assert found.points[0].numbers["control"][name] == pytest.approx(uniform[name], rel=1e-4, abs=1e-6), name
    row = dict(zip(curve_columns(), curve_rows(found)[1], strict=True))
    assert row["uniform"] == f"{uniform['top1']['achieved']:.2%}"
    assert "control" not in uniform


def test_a_point_without_a_uniform_plan_of_its_cost_has_no_control(swept):
    found, _, _ = swept
    assert any("no plan with uniform widths" in note for note in found.points[0].numbers["notes"])
    assert "control" not in found.points[0].numbers


def test_what_is_uniform_itself_has_no_control():
    found = sweep(recipe(allocation="uniform"), budgets=(0.6,), model=build(), batches=batches())
    assert (found.controls, "control" in found.points[0].numbers) == ([], False)


def test_the_folder_holds_a_recipe_a_point_and_the_numbers(swept):
    found, folder, model = swept
    assert sorted(path.name for path in folder.iterdir()) == ["50.yaml", "80.yaml", "sweep.json", "sweep.png"]
    numbers = json.loads((folder / "sweep.json").read_text())
    assert numbers == json.loads(json.dumps(found.content()))
    assert [(p["budget"], p["recipe"]) for p in numbers["points"]] == [(0.8, "80.yaml"), (0.5, "50.yaml")]
    again = apply(load_recipe(folder / "50.yaml"), model=model, batches=batches(), timed=False)
    assert again.cost.params == numbers["points"][1]["params"]["achieved"]
    assert (folder / "sweep.png").read_bytes() == curve_figure(found)


def test_the_table_has_the_source_and_a_row_a_point(swept):
    found, _, _ = swept
    rows = [dict(zip(curve_columns(), row, strict=True)) for row in curve_rows(found)]
    assert [row["budget"] for row in rows] == ["source", "0.8", "0.5"]
    first = found.points[0].numbers
    assert rows[0]["top-1"] == f"{first['top1']['source']:.2%}"
    assert rows[1]["params"] == f"{first['params']['achieved']:,}"
    assert rows[0]["ms, batch 1"] == ""


def test_the_network_is_examined_once(monkeypatch):
    calls = []
    examine = staged.examine
    monkeypatch.setattr(staged, "examine", lambda *args, **more: calls.append(1) or examine(*args, **more))
    found = sweep(recipe(), budgets=(0.9, 0.6), model=build(), batches=batches(labelled=False))
    assert calls == [1]
    assert all(point.numbers["top1"] is None and 0 < point.numbers["agreement"] <= 1 for point in found.points)
    assert curve_figure(found).startswith(b"\x89PNG")


def test_the_source_predicts_each_image_once():
    net, seen = build(), []
    own = net.head  # what is cut from the network has the hook too
    watch = own.register_forward_hook(lambda module, args, out: seen.append(len(out)) if module is own else None)
    sweep(recipe(), budgets=(0.9,), model=net, batches=batches())
    once = sum(seen)
    seen.clear()
    sweep(recipe(), budgets=(0.9, 0.6), model=net, batches=batches())
    watch.remove()
    assert sum(seen) == once  # a second point asks the source nothing that it has not said


def test_what_is_done_is_there_when_the_next_point_fails(tmp_path, monkeypatch):
    point = verb._point

    def stopped(stage, share, *rest):
        if share == 0.5:
            raise KeyboardInterrupt
        return point(stage, share, *rest)

    monkeypatch.setattr(verb, "_point", stopped)
    with pytest.raises(KeyboardInterrupt):
        sweep(recipe(), budgets=BUDGETS, model=build(), batches=batches(), out=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["80.yaml", "sweep.json", "sweep.png"]
    assert len(json.loads((tmp_path / "sweep.json").read_text())["points"]) == 1
    with pytest.raises(InputError, match="holds a sweep; choose another folder"):
        sweep(recipe(), budgets=BUDGETS, model=build(), batches=batches(), out=tmp_path)


@pytest.mark.parametrize(
    ("budgets", "complaint"),
    [
        ((), "budgets is empty"),
        ((0.5, 0.0), "budgets: 0 is no share to cut to"),
        ((1.0,), "budgets: 1 is no share"),
        ((1.5,), "budgets: 1.5 is no share"),
        ((float("nan"),), "budgets: nan is no share"),
        ((0.5, 0.5), "budgets: 0.5 is given twice"),
        ((0.9, 0.001), r"budgets: 0.001: "),
    ],
)
def test_wrong_budgets_are_named_and_nothing_is_written(budgets, complaint, tmp_path):
    with pytest.raises(InputError, match=complaint):
        sweep(recipe(), budgets=budgets, model=build(), batches=batches(), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_without_images_it_is_refused():
    plain = recipe(scorer="magnitude", budget={"keep_macs": 0.5})
    with pytest.raises(InputError, match=r"sweep measures every point on images; give --data"):
        sweep(plain, budgets=(0.5,), model=build())
