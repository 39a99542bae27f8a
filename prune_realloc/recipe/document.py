"""The recipe as data: every field with its meaning, and the conflicts between fields."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, ConfigDict, Discriminator, StrictBool, StrictStr, Tag, WithJsonSchema

from prune_realloc.recipe.fields import (
    Conflict,
    Count,
    Location,
    Natural,
    Number,
    Part,
    PlainDict,
    Share,
    Size,
    plain,
    shown,
    unknown,
)
from prune_realloc.recipe.target import Target

RecipeAxis = Literal["qk", "v", "ffn", "heads", "embed", "block"]
"""`structure.Axis`, in the order in which recipes list them."""
Scorer = Literal["fisher", "taylor", "loss", "activation", "magnitude", "magnitude-l1", "random"]
_RANGES = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(, ?[0-9]{1,5}(-[0-9]{1,5})?)*")
_PREPROCESS = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


def _block_numbers(value: Any) -> Any:
    if value is not None and not block_ranges(value):
        raise ValueError(f'must be a block number, a range "4-11", a mix "0,3-5" or a list, got {shown(value)}')
    return value


def block_ranges(blocks: Any) -> list[range]:
    """The blocks that `blocks` names; empty where it is not the name of any."""
    items = blocks if isinstance(blocks, list) else [blocks]
    if all(isinstance(item, int) and not isinstance(item, bool) and item >= 0 for item in items):
        return [range(item, item + 1) for item in items]
    if not isinstance(blocks, str) or not _RANGES.fullmatch(blocks):
        return []
    ends = [(int(first), int(last or first)) for first, _, last in (part.partition("-") for part in blocks.split(","))]
    return [range(first, last + 1) for first, last in ends] if all(a <= b for a, b in ends) else []


def _preprocess(value: Any) -> Any:
    for key in value if isinstance(value, dict) else ():
        if key not in _PREPROCESS:
            raise ValueError(unknown("key", key, _PREPROCESS))
    return plain(value)


def _one_or_many(value: Any) -> str:
    return "[many]" if isinstance(value, list) else "[one]"


_Blocks = Annotated[
    int | str | list[int] | None,
    BeforeValidator(_block_numbers),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 0},
                {"type": "string", "pattern": f"^{_RANGES.pattern}$"},
                {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                {"type": "null"},
            ]
        }
    ),
]


class Budget(Part):
    """What must hold after rounding; exactly one field is set."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [{"required": [f]} for f in ("keep_macs", "keep_params", "macs", "params")]}
    )

    keep_macs: Share | None = None
    """Share of the source's multiply-adds, above 0 and at most 1."""
    keep_params: Share | None = None
    """Share of the source's parameters, above 0 and at most 1."""
    macs: Size | None = None
    """Multiply-adds for one image: 600M, 1.2G or a whole number."""
    params: Size | None = None
    """Parameters: 10M or a whole number."""

    def _conflicts(self) -> Iterator[Conflict]:
        given = self.model_dump(exclude_none=True)
        if not given:
            yield Conflict((), f"is empty; set one of {', '.join(type(self).model_fields)}")
        for second in list(given)[1:]:
            first = next(iter(given))
            yield Conflict((second,), f"excludes {first} {given[first]}; keep one of the two")

    @property
    def kind(self) -> Literal["macs", "params"]:
        """What the budget counts."""
        return "macs" if self.macs is not None or self.keep_macs is not None else "params"

    def limit(self, source_macs: int, source_params: int) -> int:
        """The most multiply-adds, or parameters, that the pruned network may have."""
        absolute = self.macs if self.kind == "macs" else self.params
        if absolute is not None:
            return absolute
        share = self.keep_macs if self.kind == "macs" else self.keep_params
        # as the decimal that was written: 0.29 of 100 is 29, although 0.29 * 100 is 28.999...
        return int(Fraction(str(share)) * (source_macs if self.kind == "macs" else source_params))


class Rule(Part):
    """What one axis must or must not do, in all blocks or some; later rules override earlier ones."""

    blocks: _Blocks = None
    """Block numbers of the source: 7, "4-11", "0,3-5" or [0, 1]. Default: all blocks."""
    keep: Share | None = None
    """Share of the width that stays, above 0 and at most 1; needs no budget. Excludes width."""
    width: Count | None = None
    """Units that stay, exactly; for qk and v in each head. Needs no budget. Excludes keep."""
    floor: Count | None = None
    """Never fewer units than this; for qk and v in each head."""
    ceiling: Count | None = None
    """Never more units than this; for qk and v in each head."""
    round_to: Count | None = None
    """Widths are multiples of this; for qk and v in each head."""
    freeze: StrictBool | None = None
    """true: nothing goes. Excludes keep and width."""

    def covers(self, block: int | None) -> bool:
        """Whether the rule speaks about this block; None is a site that belongs to no block."""
        return self.blocks is None or any(block in numbers for numbers in block_ranges(self.blocks))

    @property
    def fixes_width(self) -> bool:
        """Whether it says how much stays, so that it cuts without a budget."""
        return self.keep is not None or self.width is not None

    def _conflicts(self) -> Iterator[Conflict]:
        low, high = self.floor or 1, self.ceiling or math.inf
        if self.keep is not None and self.width is not None:
            yield Conflict(("width",), f"{self.width} excludes keep {self.keep}; remove one of the two")
        if self.freeze and self.fixes_width:
            yield Conflict(("freeze",), "true excludes keep and width; remove freeze, or the width")
        if low > high:
            yield Conflict(("floor",), f"{low} is above ceiling {high}; lower it to at most {high}")
        elif self.width is not None and not low <= self.width <= high:
            yield Conflict(("width",), f"{self.width} is outside floor and ceiling ({low} to {high}); change one")
        if self.width is not None and self.round_to is not None and self.width % self.round_to:
            down = self.width - self.width % self.round_to
            nearest = " or ".join(str(n) for n in (down, down + self.round_to) if n)
            yield Conflict(("width",), f"{self.width} is not a multiple of round_to {self.round_to}; take {nearest}")


_OneOrMany = Annotated[
    Annotated[Rule, Tag("[one]")] | Annotated[list[Rule], Tag("[many]")], Discriminator(_one_or_many)
]


class Compensation(Part):
    """What is done around a cut so that less is lost; all of it in closed form, without training."""

    rotate: StrictBool = True
    """Before the cut: turn Q/K and V into the basis that sorts units by what they carry; the function stays."""
    refit: StrictBool = True
    """After the cut: refit the next linear layer on the calibration images."""
    mean_shift: StrictBool = True
    """After the cut: add the mean of what the removed units gave to the next bias."""


class Source(Part):
    """The network that is cut. What is not set comes from the command line."""

    model: StrictStr | None = None
    """timm name, where the checkpoint does not tell it."""
    ckpt: StrictStr | None = None
    """Checkpoint file, or folder with config.json."""
    pretrained: StrictBool = False
    """Fetch the published weights of model."""
    ema: StrictBool = False
    """Take the averaged weights of a training checkpoint."""
    img_size: Count | None = None
    """Run at another input size, in pixels."""
    model_args: PlainDict = {}
    """Arguments for timm.create_model that differ from the named model's."""
    architecture: StrictStr | None = None
    """The network that was planned for; written by plan."""
    weights_sha256: StrictStr | None = None
    """Checksum of the weights that were planned for; written by plan."""


class Data(Part):
    """The calibration images."""

    name: StrictStr | None = None
    """What --data takes: a folder of images, demo, or a timm data set."""
    split: StrictStr = "train"
    """Part of the data set."""
    data_dir: StrictStr | None = None
    """Where a named data set lies."""
    samples: Count = 1024
    """How many images."""
    seed: Natural = 0
    """Chooses the images and every draw."""
    labels: StrictBool = True
    """Use the data's labels; false: draw them from the model."""
    preprocess: Annotated[dict[str, Any] | None, BeforeValidator(_preprocess)] = None
    """Overrides of the model's own: mean, std, interpolation, crop_pct, crop_mode."""


class SitePlan(Part):
    """The decision about one site."""

    width: Natural
    """Units that stay; for qk and v in each head. For a whole block 1 or 0."""
    of: Count
    """Units of the source."""
    groups: Count | None = None
    """How many heads or FFNs have so many each; set where no site of heads tells it."""
    reason: StrictStr
    """Why this many."""

    def _conflicts(self) -> Iterator[Conflict]:
        if self.width > self.of:
            yield Conflict(("width",), f"{self.width} is more than the source has; at most {self.of}")


class Plan(Part):
    """What the planner decided; written by plan, carried out by apply."""

    kind: Literal["macs", "params"]
    """What requested, achieved and source count."""
    requested: Count | None = None
    """The budget in numbers; not set where rules alone decided."""
    achieved: Count
    """What the planned network has."""
    source: Count
    """What the source has."""
    macs: Natural
    """Multiply-adds of the planned network for one image."""
    params: Count
    """Parameters of the planned network."""
    damage: Number | None = None
    """Predicted loss that the cut adds, in nats per image."""
    bound: Number | None = None
    """No plan at this budget has less predicted damage than this, in nats per image."""
    sites: dict[StrictStr, SitePlan]
    """Site name -> decision: embed, blocks.0.qk, or blocks.3 for a whole block."""

    def _conflicts(self) -> Iterator[Conflict]:
        for name, site in self.sites.items():
            whole = ".".join(name.split(".")[:2])
            if name == whole and "." in name:
                continue
            block_goes = whole in self.sites and "." in name and not self.sites[whole].width
            if not site.width and not block_goes:
                yield Conflict(("sites", name, "width"), "is 0, but its block stays; keep at least 1")
            if site.width and block_goes:
                yield Conflict(("sites", name, "width"), f"is {site.width}, but its block {whole} goes; it must be 0")


class Recipe(Part):
    """One way to prune a Vision Transformer."""

    format_version: Literal[1] = 1
    """Of this document."""
    source: Source = Source()
    """The network that is cut."""
    data: Data = Data()
    """The images that damage is measured on and layers are refitted on."""
    scorer: Scorer = "fisher"
    """Ranks the units of a site where no better measure applies."""
    budget: Budget | None = None
    """What must hold after rounding."""
    allocation: Literal["damage", "uniform", "per-axis"] = "damage"
    """damage: where it hurts least per cost; uniform: the same share everywhere; per-axis: one share for each axis."""
    axes: tuple[RecipeAxis, ...] = ("qk", "v", "ffn")
    """What may be cut to meet the budget."""
    rules: dict[RecipeAxis, _OneOrMany] = {}
    """Axis -> one rule, or a list of rules in which later ones override earlier ones."""
    compensate: Compensation = Compensation()
    """What is done around the cut so that less is lost."""
    plan: Plan | None = None
    """Written by plan. Remove it to plan again."""
    target: Target | None = None
    """The EfficientViT that emit makes of what pruning shows."""

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
            message = "is missing, and no rule has keep or width; set one of them, such as budget: {keep_macs: 0.5}"
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
        limit = self.budget.limit(self.plan.source, self.plan.source)
        if self.plan.requested is not None and self.plan.requested != limit:
            message = f"is {self.plan.requested}, the budget now asks for {limit}; remove plan, and plan again"
            yield Conflict(("plan", "requested"), message, about=("budget", "plan"))
