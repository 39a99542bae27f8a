"""The `target` of a recipe: which EfficientViT is wanted, what may move in it, and, once emitted, its widths. No torch.

Components are `embed` (channels of a stage), `qk` and `v` (of a head) and `ffn` (hidden units of an FFN).
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictStr, WithJsonSchema

from prune_realloc.core.cost import KINDS, CostKind
from prune_realloc.models.efficientvit_config import SIZES, EfficientVitConfig
from prune_realloc.recipe.cost_fields import CostPart, KindName, amount_type, per_kind, size_help
from prune_realloc.recipe.fields import (
    Conflict,
    Count,
    ImageSize,
    Natural,
    Number,
    Part,
    PlainDict,
    Size,
    shown,
    unknown,
)

Component = Literal["embed", "qk", "v", "ffn"]
COMPONENTS: tuple[Component, ...] = get_args(Component)
PositiveNumber = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


def _known_size(value: Any) -> Any:
    if isinstance(value, str) and value not in SIZES:
        raise ValueError(unknown("value", value, SIZES))
    return value


def _growth(value: Any) -> Any:
    if value == "like":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1 <= value <= 8:
        raise ValueError(f"must be a factor from 1 to 8, or like, got {shown(value)}")
    return float(value)


_Growth = Annotated[
    float | Literal["like"],
    BeforeValidator(_growth),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 1, "maximum": 8}, {"const": "like"}]}),
]
_Like = Annotated[StrictStr, BeforeValidator(_known_size), WithJsonSchema({"enum": list(SIZES)})]


CurvePoints = tuple[tuple[Count, PositiveNumber], ...]
"""(channels, nats lost) of a damage curve; channels rise and losses fall."""


class TargetRule(Part):
    """What one component of the target must or must not do."""

    move: StrictBool = True
    """false: it keeps the uniform network's relation to embed, whatever pruning shows."""
    width: Count | None = None
    """Exactly this many units, for qk and v in each head. Excludes ratio."""
    ratio: PositiveNumber | None = None
    """Exactly this share: qk and v of embed / heads, ffn of embed. Excludes width."""
    floor: Count | None = None
    """Never fewer units than this, for qk and v in each head; holds against ceilings. Default: one round_to."""
    ceiling: Count | None = None
    """Never more units than this; for qk and v in each head."""
    floor_ratio: PositiveNumber | None = None
    """Never a smaller share: qk and v of embed / heads, ffn of embed."""
    ceiling_ratio: PositiveNumber | None = None
    """Never a larger share: qk and v of embed / heads, ffn of embed."""
    round_to: Count = 8
    """Widths are multiples of this, and at least one of it; embed is a multiple of the number of heads too."""

    @property
    def fixed(self) -> bool:
        return self.width is not None or self.ratio is not None

    def _conflicts(self) -> Iterator[Conflict]:
        if self.width is not None and self.ratio is not None:
            yield Conflict(("ratio",), f"{self.ratio:g} excludes width {self.width}; remove one of the two")
        if not self.move and self.fixed:
            yield Conflict(("move",), "false excludes width and ratio; remove one of the two")
        bounds = [
            name for name in ("floor", "ceiling", "floor_ratio", "ceiling_ratio") if getattr(self, name) is not None
        ]
        if bounds and (self.fixed or not self.move):
            what = "width" if self.width is not None else "ratio" if self.ratio is not None else "move: false"
            yield Conflict(
                (bounds[0],), f"does not apply beside {what}, which decides the width; remove one of the two"
            )
        for low, high in (("floor", "ceiling"), ("floor_ratio", "ceiling_ratio")):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                yield Conflict((low,), f"{least:g} is above {high} {most:g}; lower it to at most {most:g}")


class NetworkWidth(Part):
    """The decision about one component of one stage, or of one block."""

    width: Count
    """Units; for qk and v in each head."""
    control: Count
    """Units of the uniform control of equal cost."""
    unmeasured: Count | None = None
    """Units of the unmeasured network of equal cost."""
    kept: Number | None = None
    """Share of the source's units there that pruning kept, as the rule reads it; for embed, relative to the whole
    source. Without: the source has no such units that could be cut, or the rule does not read them."""
    bound: Literal["floor", "ceiling", "least"] | None = None
    """What decides the width in place of what was kept: a floor or a ceiling of the rules, or the least multiple."""
    reason: StrictStr
    """How the width follows."""


def _cost_of_network(kind: CostKind) -> tuple[Any, Any]:
    return amount_type(kind), Field(description=f"{kind.noun.capitalize()} of the network{kind.scope}.")


def _cost_of_control(kind: CostKind) -> tuple[Any, Any]:
    return amount_type(kind), Field(description=f"{kind.noun.capitalize()} of the uniform control.")


def _cost_of_unmeasured(kind: CostKind) -> tuple[Any, Any]:
    described = f"{kind.noun.capitalize()} of the unmeasured network. Without: the rules leave none of this budget."
    return amount_type(kind) | None, Field(None, description=described)


def _buildable(args: dict[str, Any]) -> dict[str, Any]:
    try:
        EfficientVitConfig(**args)
    except TypeError as error:
        raise ValueError(f"are no arguments of an EfficientViT: {error}") from error
    return args


_NetworkArgs = Annotated[PlainDict, AfterValidator(_buildable)]


@per_kind("unmeasured_{}", _cost_of_unmeasured)
@per_kind("control_{}", _cost_of_control)
@per_kind("{}", _cost_of_network)
class _NetworkCosts(CostPart):
    """What an emitted network, its control and the unmeasured one cost."""

    kind: KindName
    """Kind of cost that requested counts."""
    requested: Count
    """The budget in numbers."""


class Network(_NetworkCosts):
    """What emit decided."""

    widths: dict[StrictStr, NetworkWidth]
    """Place -> decision: stages.0.embed, stages.0.qk, or blocks.3.qk where blocks differ."""
    args: _NetworkArgs
    """Arguments of timm's efficientvit_flex for the network."""
    control_args: _NetworkArgs
    """The same for the control."""
    unmeasured_args: _NetworkArgs | None = None
    """The same for the unmeasured network. Without: the rules leave none of this budget."""


def _budget_of_target(kind: CostKind) -> tuple[Any, Any]:
    others = ", ".join(name for name in KINDS if name != kind.name)
    return Size | None, Field(None, description=f"{size_help(kind, kind.emitted_example)} Excludes {others}.")


@per_kind("{}", _budget_of_target)
class _TargetBudget(CostPart):
    """What the wanted EfficientViT is like, and what it may cost."""

    like: _Like = "efficientvit_m0"
    """Network of the paper that gives depth, heads and kernels; and the budget, where none is set."""


_NO_RULE = TargetRule()


class Target(_TargetBudget):
    """The EfficientViT that is wanted."""

    img_size: ImageSize | None = None
    """Pixels of an image, one number or [height, width]. Default: the source's."""
    in_chans: Count | None = None
    """Channels of an image. Default: the source's."""
    num_classes: Natural | None = None
    """Classes, 0 for no classifier. Default: the source's."""
    stem_strides: tuple[Count, ...] | None = None
    """Strides of the stem's convolutions, 1 or 2 each. Default: so that the first stage has about 14 x 14 tokens."""
    growth: _Growth = 2.0
    """Factor between the uniform network's channels from stage to stage; like: in the proportions of like."""
    per: Literal["stage", "block"] = "stage"
    """stage: the blocks of a stage are alike; block: each has widths of its own."""
    rule: Literal["stream", "swapped", "kept", "shuffled", "inverted", "unmeasured"] | None = None
    """What the widths follow from. stream: the least inside blocks, channels by the damage curve of the source's
    stream; swapped: its control, by curves of any components. kept: what pruning kept everywhere; shuffled and
    inverted: its controls. unmeasured: the least inside blocks, channels by 1 / channels. Default: stream where the
    source shows a stream's curve, else kept."""
    seed: Natural = 0
    """Of rules swapped and shuffled."""
    curves: tuple[CurvePoints, ...] | None = None
    """Written by emit, of rules stream and swapped: [channels, nats lost with so many]; one curve for all stages or
    one for each."""
    rules: dict[Component, TargetRule] = {}
    """Component -> what it must or must not do."""
    network: Network | None = None
    """Written by emit, which decides anew each time."""

    @property
    def kind(self) -> str | None:
        """The kind of cost that the budget counts; None where none is set."""
        return next((kind for kind in KINDS if getattr(self, kind) is not None), None)

    def rule_of(self, component: str) -> TargetRule:
        """The recipe's rule for a component; without one only its multiple bounds it."""
        return self.rules.get(component, _NO_RULE)  # type: ignore[call-overload]

    def _conflicts(self) -> Iterator[Conflict]:
        first, *more = [kind for kind in KINDS if getattr(self, kind) is not None] or [""]
        for second in more:
            yield Conflict((second,), f"excludes {first} {getattr(self, first)}; keep one of the two")
        for points in self.curves or ():
            if len(points) < 2 or any(a[0] >= b[0] or a[1] <= b[1] for a, b in pairwise(points)):
                yield Conflict(("curves",), "each needs two points or more, channels rising and nats falling")
        embed = self.rules.get("embed")
        for field in ("width", "ratio", "floor_ratio", "ceiling_ratio"):
            if embed is not None and getattr(embed, field) is not None:
                message = "does not apply: the budget decides embed; use floor, ceiling or move"
                yield Conflict(("rules", "embed", field), message)
