"""The contract of a family: what an architecture must say of itself so that everything above can work with it.

A family is one file of this folder, a module with the functions of `Family`, which reads files, and one row in
`FAMILIES`; mypy checks the one against the other. Where it declares its networks' sites, which would else be traced, it
has the functions of `CuttableFamily` too and a row in `CUTTABLE`. Elsewhere only `pruning/inherit.py`, which is about
EfficientViT alone, knows names of an architecture's modules.

An example. `Toy` is a convolution `stem`, a list of `blocks`, each adding fc2(relu(fc1(x))) to a stream of D channels,
and a linear `head` on the mean of all tokens; D is `stem.weight.shape[0]`. All of a family
but the functions by which it is cut::

    import numpy as np

    from prune_realloc.core.cost import Term
    from prune_realloc.core.structure import Branch, Gate, Site, Slice, Stream, Structure, site_name

    SUPPORTS = "Toy"
    TIMM_MODULES = ("toy",)
    ALIASES = ()

    def owns(model):
        return type(model).__name__ == "Toy"

    def adopt(model):
        return model

    def describe(model):
        N, blocks = model.tokens, range(len(model.blocks))
        pixels, classes = model.stem.weight[0].numel(), len(model.head.weight)
        every = np.arange(model.stem.weight.shape[0])[:, None]
        return Structure(
            sites=tuple(_ffn(i, block) for i, block in enumerate(model.blocks)),
            terms=(
                Term(component="stem", sites=("embed",), params=pixels + 1, macs=pixels * N),
                *(Term(component="ffn", sites=("embed", f"blocks.{i}.ffn"), params=2, macs=2 * N) for i in blocks),
                *(Term(component="ffn", sites=(f"blocks.{i}.ffn",), params=1) for i in blocks),
                Term(component="ffn", sites=("embed",), params=len(blocks)),
                Term(component="head", sites=("embed",), params=classes, macs=classes),
                Term(component="head", params=classes),
            ),
            opaque=(),  # the dependency graph can look into every module
            streams=(
                Stream(
                    root=("stem.weight", 0),
                    gates=tuple(Gate(name, "output", every, dim) for name, dim in _writers(model)),
                ),
            ),
            fixed={"head.bias": "one entry per class"},
            branches=tuple(
                Branch(
                    name=f"blocks.{i}",
                    block=i,
                    site=site_name("ffn", i),
                    stream="embed",
                    readers=(f"blocks.{i}.fc1",),
                    writer=f"blocks.{i}.fc2",
                    post_norm=False,
                )
                for i in blocks
            ),
            pairs=(),
            exits={"head": "embed"},
        )

    def _ffn(i, block):
        column = np.arange(len(block.fc1.weight))[:, None]
        rows = (Slice(f"blocks.{i}.fc1.weight", 0, column), Slice(f"blocks.{i}.fc1.bias", 0, column))
        gate = Gate(f"blocks.{i}.fc2", "input", column)
        return Site("ffn", i, len(column), (*rows, Slice(f"blocks.{i}.fc2.weight", 1, column)), (gate,))

    def _writers(model):
        return [("stem", 1), *((f"blocks.{i}.fc2", -1) for i in range(len(model.blocks)))]

    def example_input(model):
        return (1, 3, 32, 32)

    def features(model, images):
        return model.tokens_of(images).mean(1)

    def recognises(state):
        return "stem.weight" in state and "blocks.0.fc1.weight" in state

    def inferred_args(state, img_size):
        return {"num_classes": len(state["head.weight"])}

    def to_timm_keys(state, model):
        return state

    def candidates(state):
        return {"toy": (32, 32)}
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from prune_realloc.core.structure import Branch, Structure


class Family(Protocol):
    """What every family owes: checkpoints that can be opened.

    `model` is a network for which `owns` is true, unless it says otherwise.
    """

    @property
    def TIMM_MODULES(self) -> tuple[str, ...]:
        """Where timm defines the networks of this family: modules of `timm.models`."""

    @property
    def ALIASES(self) -> tuple[str, ...]:
        """timm's names of networks that are built in a class of ours; their tensors' shapes tell everything else."""

    def owns(self, model: nn.Module) -> bool:
        """Is `model`, which may be any module, a network of this family?"""

    def adopt(self, model: nn.Module) -> nn.Module:
        """timm's network in our class, where the family has one of its own; any other module as it is."""

    def recognises(self, state: Mapping[str, Tensor]) -> bool:
        """Is this the state dict of one of the family's networks, in whatever naming it is published?"""

    def inferred_args(self, state: Mapping[str, Tensor], img_size: int | tuple[int, int] | None) -> dict[str, Any]:
        """Arguments for `timm.create_model` that the shapes of a recognised state dict tell.

        Args:
            img_size: the input size as far as it is known elsewhere; used where the shapes leave it open.

        Raises:
            InputError: the state dict is not whole, or leaves something open that is needed.
        """

    def to_timm_keys(self, state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
        """A state dict in any published naming under the names of `model`, resized where the input size differs.

        Raises:
            RuntimeError: its position embedding cannot be resized.
        """

    def candidates(self, state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        """timm names of networks that a recognised state dict may be of -> their native input size (H, W)."""


class CuttableFamily(Family, Protocol):
    """What a family owes besides where it declares its networks' sites, by which they are scored, cut and refitted.

    The functions on streams, called in the order of the branches, compute what the network computes: `stream_input` of
    the images, plus `branch_output` of each branch on the first stream; `stream_input` of the next stream from what
    that one holds, with or without branches; at the end `head_output`. Layers are linear ones, with channels last, and
    convolutions without groups, with channels at dim 1; a batch norm behind one is in `norms`.
    """

    @property
    def SUPPORTS(self) -> str:
        """The networks of this family, as a message lists them: "timm's SwinTransformer"."""

    def describe(self, model: Any) -> Structure:
        """Everything that the rest of the program knows of the network.

        Every parameter is in a slice of a site or declared fixed, and the sum of all terms is the network's number of
        parameters and multiply-adds.

        Raises:
            InputError: a module inside is not known; the message names it and says what is.
        """

    def example_input(self, model: Any) -> tuple[int, int, int, int]:
        """Shape (B, C, H, W) of one batch of images; B is 1."""

    def features(self, model: Any, images: Tensor) -> Tensor:
        """What a network without a classifier is scored by: pooled features, shape (B, D)."""

    def depth_args(self, blocks: int) -> dict[str, Any]:
        """The arguments for `timm.create_model` that set the number of blocks."""

    def stream_input(self, model: Any, stream: str, x: Tensor) -> Tensor:
        """What enters the stream of the site `stream`: from the images where it is the first, else from the stream
        before it.

        Returns:
            Shape (B, .., D), the D channels of the stream last; elsewhere if `Structure.stream_dims` says so.
        """

    def branch_output(self, model: Any, branch: Branch, x: Tensor) -> Tensor:
        """What `branch` adds to its stream `x`, in the shape of `x`."""

    def head_output(self, model: Any, x: Tensor) -> Tensor:
        """The network's output from the last stream, after its last branch."""

    def fold_scales_(self, model: Any) -> None:
        """Move scales between a layer and the stream (LayerScale) into the layer, so that they are scored with it.

        The function of the network stays, and so do the numbers of a network in whose memory it lies (`host.sharing`).
        Called without gradients.
        """

    def sync_(
        self, model: Any, keep: Mapping[str, np.ndarray], source: Any, gone: Mapping[str, Mapping[int, np.ndarray]]
    ) -> None:
        """Bring the attributes of modules in line with parameters that were cut to the units of `keep`.

        Linear layers, convolutions and norms have been seen to.

        Args:
            keep: site name -> the units that stay; a site that is not named keeps all.
            source: the whole network.
            gone: parameter or buffer -> dimension -> the positions of it that went.
        """

    def drop_blocks_(self, model: Any, gone: Collection[int]) -> None:
        """Take whole blocks out, counted as `Site.block` counts them; those behind them move up."""


@runtime_checkable
class UnlikeBlocks(Protocol):
    """What a family owes where blocks differ in more than their widths, so that each has its place for good."""

    def places(self, model: Any) -> tuple[dict[str, Any], list[int]]:
        """Arguments for `timm.create_model` that build a network which has every block of `model` and perhaps more, and
        the number that each of them has in it, counted as `Site.block` is."""


@runtime_checkable
class Resizing(Protocol):
    """What a family owes where timm's `set_input_size` changes more than the size, such as windows."""

    def resize_(self, model: Any, size: tuple[int, int]) -> None:
        """Let the network take images of another size, and compute in them what it computes now."""


@runtime_checkable
class Reordering(Protocol):
    """What a family owes where a branch brings its tokens into another order, such as that of windows."""

    def in_stream_order(self, model: Any, branch: Branch, x: Tensor) -> Tensor:
        """What a layer of `branch` sees, of any number of channels C, in the order and shape of the stream, (B, .., C).

        Args:
            x: of so many images as there are, one after the other, channels last; of a convolution (B, N, C).
        """


@runtime_checkable
class Leading(Protocol):
    """What a family owes where something lies between two branches of one stream, such as a change of its tokens."""

    def lead(self, model: Any, branch: Branch, x: Tensor) -> Tensor:
        """What `branch` takes, where the stream holds `x` behind the branch before it, or where it enters."""
