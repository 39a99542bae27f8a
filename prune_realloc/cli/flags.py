"""Flags from the fields of a recipe's part: one for each, with the field's type, default and description."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, get_args, get_type_hints

import typer

from prune_realloc.cli.values import parse_list, parse_numbers, parse_pairs
from prune_realloc.core.errors import InputError
from prune_realloc.recipe.fields import Part
from prune_realloc.recipe.options import checked_part

_NAMES = {"name": "--data", "model_args": "--model-arg"}
"""Fields whose flags are not called like them."""
_PATH_HELP = "Checkpoint file, or folder with config.json. Default: the shipped ViT."


@dataclass(frozen=True)
class Flag:
    """One flag, or the path without one."""

    annotation: Any
    """What typer makes of it."""
    default: Any
    place: tuple[str, ...]
    """The field that it fills; two names for an entry of a field that is a mapping."""
    parse: Callable[[Any], Any] = lambda value: value
    """From what typer gives to the field's value."""


_OVERRIDES: Mapping[str, tuple[type, str, Callable[[Any], Any]]] = {
    "mean": (str, "Override, comma separated.", lambda text: parse_numbers("mean", text)),
    "std": (str, "Override, comma separated.", lambda text: parse_numbers("std", text)),
    "interpolation": (str, "Override: bilinear, bicubic, ...", str),
    "crop_pct": (float, "Override.", float),
}
"""Entries of `Data.preprocess` that have a flag: type, help and parser."""


@dataclass(frozen=True, kw_only=True)
class Flags:
    """Annotates a verb's parameter that stands for flags: `source: Annotated[Source, Flags(...)]`.

    The verb gets the part, checked; or, where the parameter is a dict, only the values that were given, unchecked.
    """

    part: type[Part]
    fields: Sequence[str]
    """Those of its fields that have a flag, in the order of `--help`."""
    panel: str
    """Heading in `--help`."""
    panels: Mapping[str, str] = field(default_factory=dict)
    """Headings of the fields that stand under another."""
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Where they are not the part's own."""
    optional: bool = False
    """No flag has a default: what is not given is left as it is elsewhere."""
    help: Mapping[str, str] = field(default_factory=dict)
    """Where it is not the field's description."""
    path: bool = False
    """The checkpoint may be given as an argument, without a flag."""

    @cached_property
    def flags(self) -> list[Flag]:
        """All flags, the path first."""
        found = []
        if self.path:
            path = Annotated[str | None, typer.Argument(metavar="[PATH]", help=_PATH_HELP)]
            found.append(Flag(path, None, ("ckpt",)))
        schemas = self.part.model_json_schema()["properties"]
        for name in self.fields:
            found += self._overrides(name) if name == "preprocess" else [self._flag(name, schemas[name])]
        return found

    def _flag(self, name: str, schema: Mapping[str, Any]) -> Flag:
        kind, parse, hint = _reading(schema, _NAMES.get(name, name).removeprefix("--"))
        own = self.part.model_fields[name].default
        default = None if self.optional or kind not in (int, float, bool, str) else self.defaults.get(name, own)
        text = _NAMES.get(name, f"--{name.replace('_', '-')}")
        switch = f"{text}/--no-{text.removeprefix('--')}" if kind is bool and own is not False else text
        words = self.help.get(name, " ".join(filter(None, (self.part.model_fields[name].description, hint))))
        annotation = self._annotation(kind if default is not None else kind | None, name, switch, words)
        return Flag(annotation, default, (name,), parse)

    def _overrides(self, name: str) -> list[Flag]:
        return [
            Flag(self._annotation(kind | None, name, f"--{key.replace('_', '-')}", words), None, (name, key), parse)
            for key, (kind, words, parse) in _OVERRIDES.items()
        ]

    def _annotation(self, kind: Any, name: str, text: str, words: str) -> Any:
        return Annotated[kind, typer.Option(text, help=words, rich_help_panel=self.panels.get(name, self.panel))]

    def values(self, given: Sequence[Any]) -> dict[str, Any]:
        """The values of the fields whose flags were given; `given` is what typer read for each of `flags`."""
        found: dict[str, Any] = {}
        for flag, value in zip(self.flags, given, strict=True):
            if value is None or value == []:
                continue
            *outer, last = flag.place
            around = found.setdefault(outer[0], {}) if outer else found
            if last in around:
                raise InputError(f"{last} is given twice, with its flag and without; leave one out")
            around[last] = flag.parse(value)
        return found


def _reading(schema: Mapping[str, Any], name: str) -> tuple[Any, Callable[[Any], Any], str]:
    """What typer reads for a field, what makes its value of that, and what `--help` adds about the way to write it."""
    types = _types(schema)
    if "object" in types:
        return list[str], lambda items: parse_pairs(items, name), "KEY=VALUE; may be repeated."
    if "array" in types:
        return str, lambda text: parse_list(name, text, single="integer" in types), "Separated by commas."
    if types == {"boolean"}:
        return bool, bool, ""
    if types == {"integer"}:
        return int, int, ""
    if types == {"number"}:
        return float, float, ""
    return str, str, ""


def _types(schema: Mapping[str, Any]) -> set[str]:
    """The JSON types that a schema allows, null aside."""
    inner = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
    own = {schema["type"]} if "type" in schema else set()
    return set().union(own, *map(_types, inner)) - {"null"}


def with_flags(verb: Callable[..., None]) -> Callable[..., None]:
    """The verb as typer wants it: each parameter that `Flags` annotate becomes its flags."""
    hints = get_type_hints(verb, include_extras=True)
    groups: dict[str, tuple[Flags, bool, list[str]]] = {}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(verb).parameters.items():
        group = next((extra for extra in get_args(hints[name])[1:] if isinstance(extra, Flags)), None)
        if group is None:
            parameters.append(parameter.replace(annotation=hints[name], kind=parameter.KEYWORD_ONLY))
            continue
        names = [f"{name}_{number}" for number in range(len(group.flags))]
        groups[name] = (group, get_args(hints[name])[0] is group.part, names)
        parameters += [
            inspect.Parameter(own, parameter.KEYWORD_ONLY, default=flag.default, annotation=flag.annotation)
            for own, flag in zip(names, group.flags, strict=True)
        ]

    def called(**given: Any) -> None:
        for name, (group, checked, names) in groups.items():
            values = group.values([given.pop(own) for own in names])
            given[name] = checked_part(group.part, values) if checked else values
        verb(**given)

    called.__name__, called.__doc__ = verb.__name__, verb.__doc__
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    called.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    return called
