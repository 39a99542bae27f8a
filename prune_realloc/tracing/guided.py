"""The forward pass of one module as a graph (torch.fx), with the labels that every step of it gives.

Where the way through it depends on sizes, or on anything else that is not in the tensors, it is the way that the labels
take, and the graph asserts that it is taken again.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from operator import eq
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.proxy import Attribute, TraceError

from prune_realloc.core.errors import first_line
from prune_realloc.tracing.labels import Labels, labels
from prune_realloc.tracing.record import Record
from prune_realloc.tracing.run import on_labels

_SAME_WAY = "this forward pass was written for images of another size or number"


@dataclass(frozen=True)
class Written:
    """A forward pass, step by step."""

    graph: fx.Graph
    module: fx.GraphModule
    """That the graph belongs to."""
    values: dict[fx.Node, Any]
    """What every node gives: labels, or a number."""
    constants: Mapping[str, Tensor]
    """Tensors that the pass makes of numbers alone -> by the name under which the graph reads them."""


def written(module: nn.Module, record: Record, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Written | str:
    """The forward pass of a call; or why it cannot be had: the way through it depends on what is in the tensors.

    Args:
        module: what it keeps from this pass for the next is kept from tracing.
        record: of the network that it is in.
    """
    parameters = inspect.signature(module.forward).parameters
    try:
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        bound.apply_defaults()
        fixed = {key: x for key, x in bound.arguments.items() if x is None or isinstance(x, bool | str)}
        tracer = _Guided(record, list(bound.arguments.values()))
        with _length_as_step(module):
            graph = _plain(tracer.trace(module, concrete_args=fixed or None), parameters)
    except Exception as error:  # tracing runs the network's own code
        return first_line(error)
    reads = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    own = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    constants = {name: getattr(module, name) for name in reads if name not in own and "." not in name}
    whole = fx.GraphModule(module, graph)
    return Written(graph, whole, {node: tracer.value(node) for node in graph.nodes if node.op != "output"}, constants)


@contextmanager
def _length_as_step(module: nn.Module) -> Iterator[None]:
    """Inside, `len` of a tensor in the forward pass is a step as `x.shape[0]` is; Python's own has to be a number."""
    scope: dict[str, Any] = getattr(module.forward, "__globals__", {})
    own = {"len": scope["len"]} if "len" in scope else {}
    scope["len"] = _length
    try:
        yield
    finally:
        del scope["len"]
        scope.update(own)


def _length(x: Any) -> Any:
    if isinstance(x, _Known) and isinstance(x.tracer.value(x.node), Labels):  # type: ignore[attr-defined]
        return x.tracer.create_proxy("call_function", len, (x,), {})
    return len(x)


class _Known(fx.Proxy):
    """A step whose labels, or whose number, is known."""

    def __getattr__(self, name: str) -> Any:
        if name == "type" and isinstance(self.tracer.value(self.node), torch.device):  # type: ignore[attr-defined]
            return self.tracer.value(self.node).type  # type: ignore[attr-defined]
        return _KnownAttribute(self, name)

    def __len__(self) -> int:
        return int(self.tracer.length(self))  # type: ignore[attr-defined]

    def __index__(self) -> int:
        return int(self.tracer.settled(self, int))  # type: ignore[attr-defined]

    def __int__(self) -> int:
        return int(float(self))

    def __round__(self, digits: int | None = None) -> Any:
        return round(float(self), digits)

    def __float__(self) -> float:
        return float(self.tracer.settled(self, int | float))  # type: ignore[attr-defined]


class _KnownAttribute(Attribute, _Known):
    """`x.shape` and the like."""


class _Guided(fx.Tracer):
    """Traces one module; what is inside it is called as it is."""

    proxy_buffer_attributes = True

    def __init__(self, record: Record, arguments: list[Any]) -> None:
        super().__init__()
        self.record, self.arguments = Record(record.ids), arguments
        self._values: dict[fx.Node, Any] = {}
        self._computing = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Known(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **named: Any) -> Any:
        made = super().create_proxy(kind, target, args, kwargs, *rest, **named)
        if kind == "placeholder":
            self._values[made.node] = self.arguments.pop(0)
        elif kind != "output":
            self._values[made.node] = self._computed(made.node)
        return made

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        return forward(*args, **kwargs) if self._computing else super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        return attr_val if self._computing else super().getattr(attr, attr_val, parameter_proxy_cache)

    def to_bool(self, obj: fx.Proxy) -> bool:
        return bool(self.settled(obj, bool | int | float))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        value = self.value(obj.node)
        if not isinstance(value, tuple | list | Labels):
            raise TraceError("it runs over what is in a tensor")
        return iter([obj[i] for i in range(self.length(obj))])  # type: ignore[index]

    def length(self, obj: fx.Proxy) -> int:
        """What `len` says of a step; of a tensor it may be how many images there are."""
        value = self.value(obj.node)
        if isinstance(value, Labels):
            return int(self.settled(self.create_proxy("call_function", len, (obj,), {}), int))
        return len(value)

    def settled(self, obj: fx.Proxy, kind: Any) -> Any:
        """The value of a step that the way depends on, or that has to be a number at once."""
        value = self.value(obj.node)
        if not isinstance(value, kind):
            raise TraceError(f"the way through it depends on a {type(value).__name__}")
        same = self.create_proxy("call_function", eq, (obj, value), {})
        self.create_proxy("call_function", torch._assert, (same, _SAME_WAY), {})
        return value

    def value(self, node: fx.Node) -> Any:
        """What a node gives; a parameter as its labels."""
        if node.op != "get_attr":
            return self._values[node]
        held = self._held(node)
        return _of_parameter(self.record, held) if isinstance(held, Tensor) else held

    def _held(self, node: fx.Node) -> Any:
        found: Any = self.root
        for part in str(node.target).split("."):
            found = found._parameters[part] if part in getattr(found, "_parameters", {}) else getattr(found, part)
        return found

    def _computed(self, node: fx.Node) -> Any:
        def load(x: fx.Node) -> Any:
            return self._held(x) if x.op == "get_attr" else self._values[x]

        self._computing = True
        try:
            if node.op == "get_attr":
                return self._held(node)
            args, kwargs = fx.map_arg(node.args, load), fx.map_arg(node.kwargs, load)
            with torch.no_grad(), on_labels(self.record):
                if node.op == "call_method":
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
                if node.op == "call_module":
                    return self.root.get_submodule(str(node.target))(*args, **kwargs)
                return node.target(*args, **kwargs)  # type: ignore[operator]
        finally:
            self._computing = False


def _of_parameter(record: Record, x: Tensor) -> Tensor:
    """A parameter or buffer as labels, as far as it has been given any."""
    name = record.ids.names.get(id(x))
    runs = [run for run in record.ids.all_runs() if run.name == name]
    if not runs:
        return x
    whole = [run.tensor().reshape(x.shape) for run in runs if run.dim is None]
    sides = [run.tensor().reshape(-1, *[1] * (x.ndim - 1 - run.dim)) for run in runs if run.dim is not None]
    return labels(x.shape, whole or sides, parameter=True)


def _plain(graph: fx.Graph, parameters: Mapping[str, inspect.Parameter]) -> fx.Graph:
    """With the names and defaults of the arguments, and without assertions of others."""
    for node in reversed(list(graph.nodes)):
        asserts = getattr(node.target, "__name__", "") in ("_assert", "_assert_is_none")
        if asserts and node.op == "call_function" and _SAME_WAY not in node.args:
            graph.erase_node(node)
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    for node, (name, parameter) in zip(placeholders, parameters.items(), strict=True):
        node.target = name
        node.args = () if parameter.default is parameter.empty else (parameter.default,)
    graph.set_codegen(fx.graph.CodeGen())
    return graph
