"""The recipe as data: every field with its meaning, and the conflicts between fields."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BeforeValidator, StrictBool, StrictStr, model_validator

from prune_realloc.core.cost import DEFAULT_KIND
from prune_realloc.core.names import PREPROCESSING
from prune_realloc.recipe.budget import Budget
from prune_realloc.recipe.fields import Conflict, Count, ImageSize, Location, Natural, Part, PlainDict, plain, unknown
from prune_realloc.recipe.plan import Plan
from prune_realloc.recipe.rules import OneOrMany, Rule, block_ranges
from prune_realloc.recipe.target import Target

RecipeAxis = Literal["qk", "v", "ffn", "hidden", "heads", "embed", "block"]
"""`structure.Axis`, in the order in which recipes list them."""
DEFAULT_AXES: tuple[RecipeAxis, ...] = ("qk", "v", "ffn", "hidden", "embed")
"""What may be cut where a recipe does not say it, as far as the network has it."""
Scorer = Literal["fisher", "taylor", "loss", "activation", "magnitude", "magnitude-l1", "random"]
COMPARABLE_SCORERS: tuple[Scorer, ...] = ("fisher", "taylor", "loss")
"""Their damage is in nats, so it can be compared across sites."""


def _preprocess(value: Any) -> Any:
    for key in value if isinstance(value, dict) else ():
        if key not in PREPROCESSING:
            raise ValueError(unknown("key", key, PREPROCESSING))
    return plain(value)


class Compensation(Part):
    """What is done around a cut so that less is lost; all but tune in closed form, without training."""

    rotate: StrictBool = True
    """Before the cut: turn Q/K and V into the basis that sorts units by what they carry; the function stays."""
    refit: StrictBool = True
    """After the cut: refit the next linear layer on the calibration images."""
    mean_shift: StrictBool = True
    """After the cut: add the mean of what the removed units gave to the next bias."""
    tune: Natural = 0
    """After the refit of each part of the network: so many steps of gradient descent towards what the source has behind
    that part; no labels are read. A part that is no nearer to the source on held-back images stays as refitted."""

    def _conflicts(self) -> Iterator[Conflict]:
        if self.tune and not self.refit:
            yield Conflict(("tune",), "follows a refit, and refit is false; set refit: true, or tune: 0")


class Source(Part):
    """The network that is cut. What is not set comes from the command line."""

    model: StrictStr | None = None
    """Name of the model in timm, where the checkpoint does not tell it; or hf-hub:NAME."""
    ckpt: StrictStr | None = None
    """Checkpoint file, or folder with config.json."""
    pretrained: StrictBool = False
    """Fetch the published weights of the named model."""
    ema: StrictBool | None = None
    """Take the averaged weights of a training checkpoint, or the others. Default: as the script does that wrote it."""
    img_size: ImageSize | None = None
    """Run at another input size in pixels: one number, or height and width."""
    model_args: PlainDict = {}
    """Arguments for timm.create_model that differ from the named model's."""
    architecture: StrictStr | None = None
    """The network that was planned for; written by plan."""
    weights_sha256: StrictStr | None = None
    """Checksum of the weights that were planned for; written by plan."""
    input_size: tuple[Count, Count, Count] | None = None
    """Channels, height and width of an image of that network; written by plan."""
    num_classes: Natural | None = None
    """Classes of that network, 0 without a classifier; written by plan."""


class Data(Part):
    """The calibration images."""

    name: StrictStr | None = None
    """Folder of images, 'demo', or a timm data set (torch/..., hfds/..., wds/...)."""
    split: StrictStr = "train"
    """Part of the data set that the images are taken from."""
    data_dir: StrictStr | None = None
    """Folder where a named data set lies."""
    samples: Count = 1024
    """Number of images."""
    seed: Natural = 0
    """Seed that chooses the images and decides every draw."""
    labels: StrictBool = True
    """Use the data's labels, or do without them."""
    class_map: StrictStr | None = None
    """File of class names and their labels, for data whose classes have names."""
    class_order: Literal["torchvision", "timm"] | None = None
    """How labels follow from the names of class folders: torchvision sorts by characters, timm numbers by value."""
    preprocess: Annotated[dict[str, Any] | None, BeforeValidator(_preprocess)] = None
    """Overrides of the model's own preprocessing: mean, std, interpolation, crop_pct, crop_mode."""

    def _conflicts(self) -> Iterator[Conflict]:
        if self.class_map is not None and self.class_order is not None:
            yield Conflict(("class_order",), "says nothing beside class_map, which has the labels; give one of them")


class Recipe(Part):
    """One way to prune a Vision Transformer."""

    format_version: Literal[1] = 1
    """Version of the format of this document."""
    source: Source = Source()
    """The network that is cut."""
    data: Data = Data()
    """The images that damage is measured on and layers are refitted on."""
    scorer: Scorer = "fisher"
    """Ranks the units of a site where no better measure applies."""
    budget: Budget | None = None
    """What must hold after rounding."""
    allocation: Literal["damage", "uniform", "per-axis"] = "damage"
    """damage: where it hurts least per cost; uniform: the same share everywhere; per-axis: one share for each axis.
    Default: damage, or per-axis with a scorer whose scores cannot be compared across sites."""
    axes: tuple[RecipeAxis, ...] = ("qk", "v", "ffn")
    """What may be cut to meet the budget. Default: of qk, v, ffn, hidden and, by damage, embed what the network has."""
    rules: dict[RecipeAxis, OneOrMany] = {}
    """Axis -> one rule, or a list of rules in which later ones override earlier ones."""
    compensate: Compensation = Compensation()
    """What is done around the cut so that less is lost."""
    plan: Plan | None = None
    """Written by plan. Remove it to plan again."""
    target: Target | None = None
    """The EfficientViT that emit makes of what pruning shows."""

    @model_validator(mode="after")
    def _fit_allocation(self) -> Self:
        if "allocation" not in self.model_fields_set and self.scorer not in COMPARABLE_SCORERS:
            self.__dict__["allocation"] = "per-axis"  # still counts as not given
        return self

    def rules_of(self, axis: str) -> list[Rule]:
        """The rules of one axis, in the order of the document."""
        rules = self.rules.get(axis, [])  # type: ignore[call-overload]
        return rules if isinstance(rules, list) else [rules]

    def rule(self, axis: str, block: int | None) -> Rule:
        """All rules of `axis` that cover `block` as one, later fields over earlier ones.

        `keep`, `width` and `freeze: true` exclude each other, so a later one also drops the earlier. A width is
        exact: floor, ceiling and round_to of other rules do not change it.
        """
        merged: dict[str, Any] = {}
        for rule in self.rules_of(axis):
            if rule.covers(block):
                if rule.fixes_width or rule.freeze:
                    merged = {key: merged[key] for key in merged if key not in ("keep", "width", "freeze")}
                merged |= rule.model_dump(exclude_none=True, exclude={"blocks"})
        return Rule.model_construct(**merged)

    def _conflicts(self) -> Iterator[Conflict]:
        yield from self._without_purpose()
        for axis in sorted(set(self.axes), key=self.axes.index):
            if self.axes.count(axis) > 1:
                yield Conflict(("axes",), f"names {axis} more than once; remove one")
        for axis in self.rules:
            yield from self._misplaced(axis)
            yield from self._crossed_bounds(axis)
        yield from self._stale_plan()

    def _without_purpose(self) -> Iterator[Conflict]:
        if self.plan is not None or self.target is not None:
            return
        if any(rule.fixes_width for axis in self.rules for rule in self.rules_of(axis)):
            return
        if self.budget is None:
            example = f"budget: {{keep_{DEFAULT_KIND}: 0.5}}"
            message = f"is missing, and no rule has keep or width; set one of them, such as {example}"
            yield Conflict(("budget",), message, about=("budget", "rules", "plan", "target"))
        elif not self.axes:
            message = f"is empty, so the budget has nothing to cut; name some of {', '.join(get_args(RecipeAxis))}"
            yield Conflict(("axes",), message, about=("axes", "rules", "plan"))

    def _misplaced(self, axis: RecipeAxis) -> Iterator[Conflict]:
        for index, rule in enumerate(self.rules_of(axis)):
            loc: Location = ("rules", axis, index) if isinstance(self.rules[axis], list) else ("rules", axis)
            if axis == "embed" and rule.blocks is not None:
                yield Conflict((*loc, "blocks"), "does not apply: embed belongs to no block; remove it")
            for field in rule.model_dump(exclude_none=True, exclude={"blocks", "freeze"}) if axis == "block" else ():
                yield Conflict((*loc, field), "does not apply: a whole block stays or goes; use freeze")

    def _crossed_bounds(self, axis: RecipeAxis) -> Iterator[Conflict]:
        """Floors above ceilings that come from different rules; what covers a block changes at the ends of ranges."""
        ranges = [numbers for rule in self.rules_of(axis) for numbers in block_ranges(rule.blocks)]
        for block in (None, *sorted({end for numbers in ranges for end in (numbers.start, numbers.stop)})):
            rule = self.rule(axis, block)
            if rule.floor is not None and rule.ceiling is not None and rule.floor > rule.ceiling:
                where = "" if block is None else f" for block {block}"
                message = f"has floor {rule.floor} above ceiling {rule.ceiling}{where}, from several rules; change one"
                yield Conflict(("rules", axis), message)
                return

    def _stale_plan(self) -> Iterator[Conflict]:
        if self.plan is None or self.budget is None:
            return
        if self.plan.kind != self.budget.kind:
            message = f"is {self.plan.kind}, the budget counts {self.budget.kind}; remove plan, and plan again"
            yield Conflict(("plan", "kind"), message, about=("budget", "plan"))
            return
        planned = self.plan.limits()
        if planned and planned.keys() != {*self.budget.counted}:
            have, asked = (" and ".join(sorted(names)) for names in (planned, self.budget.counted))
            message = f"keeps budgets of {have}, those asked for are of {asked}; remove plan, and plan again"
            yield Conflict(("plan",), message, about=("budget", "plan"))
            return
        for counted, (place, requested, source) in planned.items():
            limit = self.budget.limit_of(counted, source)
            if requested != limit:
                message = f"is {requested}, the budget now asks for {limit}; remove plan, and plan again"
                yield Conflict(("plan", *place), message, about=("budget", "plan"))
