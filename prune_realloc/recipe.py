"""Recipe: what to cut, how far, and, once planned, the width of every site with its reason. YAML in, YAML out.

Reading happens in three steps: the text becomes YAML nodes (with positions, without tags or aliases, so that nothing
in it can run), the nodes become plain values, and pydantic checks the values. Every problem of the three steps is a
`Problem` with the line it stands in. No torch here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    StrictBool,
    StrictStr,
    Tag,
    ValidationError,
    WithJsonSchema,
)

from prune_realloc.errors import InputError
from prune_realloc.fields import (
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
    size_text,
    unknown,
)
from prune_realloc.target import Network, Target, TargetRule

RecipeAxis = Literal["qk", "v", "ffn", "heads", "embed", "block"]
"""`structure.Axis`, in the order in which recipes list them."""
Scorer = Literal["fisher", "taylor", "loss", "activation", "magnitude", "magnitude-l1", "random"]
SCHEMA_FILE = "recipe.schema.json"
"""Ships beside this module; a dumped recipe names it for editors."""


# -- field types ----------------------------------------------------------------------------------------------

_RANGES = re.compile(r"[0-9]{1,5}(-[0-9]{1,5})?(, ?[0-9]{1,5}(-[0-9]{1,5})?)*")
_PREPROCESS = ("mean", "std", "interpolation", "crop_pct", "crop_mode")


def _block_numbers(value: Any) -> Any:
    if value is not None and not _ranges(value):
        raise ValueError(f'must be a block number, a range "4-11", a mix "0,3-5" or a list, got {shown(value)}')
    return value


def _ranges(blocks: Any) -> list[range]:
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


# -- the document ---------------------------------------------------------------------------------------------


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
        return self.blocks is None or any(block in numbers for numbers in _ranges(self.blocks))

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
        ranges = [numbers for rule in self.rules_of(axis) for numbers in _ranges(rule.blocks)]
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


# -- reading --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, order=True)
class Problem:
    """One thing that is wrong in a recipe's text, and where."""

    line: int
    column: int
    field: str
    """Dotted name, such as `rules.ffn[1].keep`; empty for the document as a whole."""
    message: str

    def __str__(self) -> str:
        return ": ".join(part for part in (f"{self.line}:{self.column}", self.field, self.message) if part)


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        InputError: it cannot be read, or is wrong; the message has the first problem and how many there are.
    """
    return parse_recipe(read_text(path), where=str(path))


def parse_recipe(text: str, where: str = "recipe") -> Recipe:
    """Check the text of a recipe; `where` names it in the error.

    Raises:
        InputError: it is wrong; the message has the first problem and how many there are.
    """
    recipe, problems = _read(text)
    if recipe is None:
        count = len(problems)
        rest = f" ({count} problems; `prune-realloc validate {where}` lists all)" if count > 1 else ""
        raise InputError(f"{where}:{problems[0]}{rest}")
    return recipe


def build_recipe(values: Mapping[str, Any]) -> Recipe:
    """A recipe from values instead of text, such as flags of the command line.

    Raises:
        InputError: a value is wrong; the message names its field.
    """
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise InputError(": ".join(filter(None, (_dotted(first["loc"]), _message(first))))) from error


def check_recipe(text: str) -> list[Problem]:
    """Everything that is wrong in the text of a recipe, in the order of its lines; empty: nothing."""
    return _read(text)[1]


def read_text(path: str | Path, what: str = "recipe") -> str:
    """The text of a file; `what` it is, for messages.

    Raises:
        InputError: it is missing, no file, or no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{what} {str(path)!r} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{what} {str(path)!r} is not UTF-8 text; is it a {what}?") from error


class _Loader(yaml.SafeLoader):
    """Scalars as YAML 1.2 reads them, as editors do: `on` and `4:11` are text, `1e-3` is a number."""

    yaml_implicit_resolvers: dict[str, Any] = {}


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else; never writes aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9]{0,299})", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
):
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first))


def _read(text: str) -> tuple[Recipe | None, list[Problem]]:
    try:
        if problems := list(_forbidden(text)):
            return None, problems
        root = yaml.compose(text, _Loader)
        if not isinstance(root, yaml.MappingNode):
            return None, [Problem(1, 1, "", "is empty or no mapping; a recipe is made of `key: value` lines")]
        problems = list(_repeated_keys(root, ()))
        values = _Loader("").construct_document(root)
    except yaml.YAMLError as error:
        return None, [_syntax_problem(error, text)]
    except RecursionError:
        return None, [Problem(1, 1, "", "is nested too deeply to be a recipe")]
    recipe, errors = _validate(values)
    problems += [Problem(*_position(root, e["loc"]), _dotted(e["loc"]), _message(e)) for e in errors]
    return (None if problems else recipe), sorted(problems)


def _forbidden(text: str) -> Iterator[Problem]:
    """Tags, which name types to build, and aliases, which can make a small file huge."""
    for event in yaml.parse(text, _Loader):
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            message = f"alias '*{event.anchor}' is not allowed; write the value out"
        elif (tag := getattr(event, "tag", None)) is not None:
            message = f"tag {tag.replace('tag:yaml.org,2002:', '!!')!r} is not allowed; write a plain value"
        else:
            continue
        yield Problem(mark.line + 1, mark.column + 1, "", message)


def _repeated_keys(node: yaml.Node, loc: Location) -> Iterator[Problem]:
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _repeated_keys(item, (*loc, index))
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line, name = key.start_mark.line + 1, str(key.value)
        if name in lines:
            message = f"is given twice, first in line {lines[name]}; remove one"
            yield Problem(line, key.start_mark.column + 1, _dotted((*loc, name)), message)
        lines.setdefault(name, line)
        yield from _repeated_keys(value, (*loc, name))


def _syntax_problem(error: yaml.YAMLError, text: str) -> Problem:
    if isinstance(error, yaml.MarkedYAMLError) and (mark := error.problem_mark or error.context_mark):
        what = ", ".join(filter(None, (error.context, error.problem)))
        return Problem(mark.line + 1, mark.column + 1, "", f"is not valid YAML: {what}")
    before = text[: getattr(error, "position", 0)]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return Problem(line, column, "", f"is not valid YAML: {getattr(error, 'reason', error)}")


def _validate(values: dict[str, Any]) -> tuple[Recipe | None, list[Any]]:
    """The recipe and all errors; takes wrong values out of `values`.

    pydantic compares fields only where each is right. So what is wrong is taken out and the rest checked again, until
    nothing new is found; what then only complains about the gaps does not count.
    """
    errors: dict[tuple[Location, str], Any] = {}
    removed: list[Location] = []
    while True:
        try:
            return Recipe.model_validate(values), list(errors.values())
        except ValidationError as error:
            found = error.errors(include_url=False)
        for e in found:
            if not _follows_from(removed, e):
                errors.setdefault((e["loc"], _message(e)), e)
        wrong = [_untagged(e["loc"]) for e in found]
        # a field that is missing cannot be taken out, so at last what it is missing from
        gaps = [loc for loc in wrong if _remove(values, loc)] or [
            loc[:-1] for loc in wrong if _remove(values, loc[:-1])
        ]
        if not gaps:
            return None, list(errors.values())
        removed += gaps


def _follows_from(removed: list[Location], error: Any) -> bool:
    named = error.get("ctx", {}).get("about", ())
    about: list[Location] = [(name,) for name in named] or [_untagged(error["loc"])]
    return any(gap[: len(scope)] == scope for gap in removed for scope in about)


def _remove(values: Any, loc: Location) -> bool:
    """Take the innermost named field of `loc` out of `values`, if it is there."""
    path = list(loc)
    while path and isinstance(path[-1], int):
        path.pop()
    for part in path[:-1]:
        if isinstance(values, dict) and part not in values:
            return False
        values = values[part]
    if not path or not isinstance(values, dict) or path[-1] not in values:
        return False
    del values[path[-1]]
    return True


# -- messages -------------------------------------------------------------------------------------------------


def _untagged(loc: Location) -> Location:
    """Without what pydantic adds that is not in the document."""
    return tuple(part for part in loc if part not in ("[one]", "[many]", "[key]"))


def _dotted(loc: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in _untagged(loc)).lstrip(".")


def _position(root: yaml.Node, loc: Location) -> tuple[int, int]:
    """Line and column, from 1, of the key or item; of the nearest thing around it if it is not in the document."""
    node, mark = root, root.start_mark
    for part in _untagged(loc):
        if isinstance(node, yaml.MappingNode):
            found = [(key.start_mark, value) for key, value in node.value if key.value == str(part)]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            found = [(item.start_mark, item) for item in node.value[part : part + 1]]
        else:
            found = []
        if not found:
            break
        mark, node = found[-1]
    return mark.line + 1, mark.column + 1


_PARTS: dict[str, type[Part]] = {
    "source": Source,
    "data": Data,
    "budget": Budget,
    "compensate": Compensation,
    "plan": Plan,
    "target": Target,
}
_INNER_PARTS: dict[Location, type[Part]] = {
    ("plan", "sites"): SitePlan,
    ("target", "rules"): TargetRule,
    ("target", "network"): Network,
}
_MUST_BE = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "invalid_key": "text",
    "bool_type": "true or false",
    "tuple_type": "a list, such as [qk, ffn]",
    "dict_type": "a mapping, such as {{key: value}}",
    "model_type": "a mapping, such as {{key: value}}",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than_equal": "at most {le:g}",
}


def _message(error: Any) -> str:
    """One of pydantic's errors in our words: what is wrong with the field, and what would be right."""
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "conflict":
        return context["message"]
    if kind == "value_error":
        return str(context["error"])
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return _unknown_key(_untagged(error["loc"][:-1]), str(error["loc"][-1]))
    if kind == "literal_error":
        choices = re.findall("'([^']*)'", context["expected"])
        return unknown("value", value, choices) if choices else f"must be {context['expected']}, got {shown(value)}"
    if kind in _MUST_BE:
        return f"must be {_MUST_BE[kind].format(**context)}, got {shown(value)}"
    return error["msg"]


def _unknown_key(around: Location, key: str) -> str:
    if not around:
        for name, part in _PARTS.items():
            if key in part.model_fields:
                return f"unknown key {key!r}; it belongs under {name}"
        return unknown("key", key, Recipe.model_fields)
    part = _INNER_PARTS.get(around[:2]) or (Rule if around[0] == "rules" else _PARTS[str(around[0])])
    return unknown("key", key, part.model_fields)


# -- writing --------------------------------------------------------------------------------------------------


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


def dump_recipe(recipe: Recipe, command: str, *, schema: str = SCHEMA_FILE) -> str:
    """The recipe as YAML, without what is left at its default; `parse_recipe` gives an equal recipe back.

    Args:
        command: what runs the recipe; the first line of the file.
        schema: where editors find `recipe_schema()`, relative to the file.
    """
    comment = "".join(letter if letter.isprintable() else " " for letter in command)
    lines = [f"# {comment}", f"# yaml-language-server: $schema={schema}", "format_version: 1"]
    lines += _section("source", recipe.source.model_dump(exclude_defaults=True))
    lines += _section("data", recipe.data.model_dump(exclude_defaults=True))
    if recipe.scorer != "fisher":
        lines.append(f"scorer: {recipe.scorer}")
    if recipe.budget is not None:
        budget = recipe.budget.model_dump(exclude_none=True)
        budget |= {key: size_text(budget[key]) for key in ("macs", "params") if key in budget}
        lines.append(f"budget: {_flow(budget)}")
    lines += [f"allocation: {recipe.allocation}", f"axes: {_flow(list(recipe.axes))}"]
    lines += _rule_lines(recipe)
    lines.append(f"compensate: {_flow(recipe.compensate.model_dump())}")
    if recipe.plan is not None:
        lines += _section("plan", recipe.plan.model_dump(exclude_none=True, exclude={"sites"}))
        lines += _site_lines(recipe.plan.sites)
    if recipe.target is not None:
        lines += _target_lines(recipe.target)
    return "\n".join(lines) + "\n"


def recipe_schema() -> dict[str, Any]:
    """The JSON Schema of recipes, with a description of every field; the package holds it as `recipe.schema.json`."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema"} | Recipe.model_json_schema()


def _flow(value: Any) -> str:
    """One line of YAML; in a list while it is written, so that a scalar does not become a document."""
    text = yaml.dump(
        [value], Dumper=_Dumper, default_flow_style=True, width=math.inf, allow_unicode=True, sort_keys=False
    )
    return text.strip()[1:-1]


def _section(name: str, values: Mapping[str, Any]) -> list[str]:
    return [f"{name}:", *(f"  {key}: {_flow(value)}" for key, value in values.items())] if values else []


def _rule_lines(recipe: Recipe) -> list[str]:
    lines = ["rules:"] if recipe.rules else []
    for axis in get_args(RecipeAxis):
        if axis in recipe.rules:
            shown = [_flow(rule.model_dump(exclude_none=True)) for rule in recipe.rules_of(axis)]
            many = isinstance(recipe.rules[axis], list) and shown
            lines += (
                [f"  {axis}:", *(f"    - {rule}" for rule in shown)]
                if many
                else [f"  {axis}: {''.join(shown) or '[]'}"]
            )
    return lines


def _target_lines(target: Target) -> list[str]:
    plain_fields = target.model_dump(exclude_defaults=True, exclude={"rules", "network"})
    plain_fields |= {key: size_text(plain_fields[key]) for key in ("macs", "params") if key in plain_fields}
    lines = ["target:", f"  like: {target.like}"]
    lines += [
        f"  {key}: {_flow(list(value) if isinstance(value, tuple) else value)}"
        for key, value in plain_fields.items()
        if key != "like"
    ]
    if target.rules:
        lines.append("  rules:")
        lines += [f"    {key}: {_flow(rule.model_dump(exclude_defaults=True))}" for key, rule in target.rules.items()]
    if target.network is not None:
        lines += ["  network:"]
        for key, value in target.network.model_dump(exclude={"widths"}).items():
            lines.append(f"    {key}: {_flow(value)}")
        names = {name: f"{_flow(name)}:" for name in target.network.widths}
        longest = max(map(len, names.values()), default=0)
        lines.append("    widths:")
        lines += [f"      {names[name]:{longest}} {_flow(width.model_dump(exclude_none=True))}"
                  for name, width in target.network.widths.items()]  # fmt: skip
    return lines


def _site_lines(sites: Mapping[str, SitePlan]) -> list[str]:
    if not sites:
        return ["  sites: {}"]
    names = {name: f"{_flow(name)}:" for name in sites}
    longest = max(map(len, names.values()))
    return [
        "  sites:",
        *(f"    {names[n]:{longest}} {_flow(site.model_dump(exclude_defaults=True))}" for n, site in sites.items()),
    ]
