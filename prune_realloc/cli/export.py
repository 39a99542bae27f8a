"""The verb `export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prune_realloc.cli.console import print_table, quiet_libraries
from prune_realloc.cli.options import RUN, Json, data_flags, option, source_flags
from prune_realloc.recipe.document import Data, Source

if TYPE_CHECKING:
    from prune_realloc.results.export import Exported


def export(
    onnx: Annotated[Path, option(RUN, "--onnx", help="The file to write, such as model.onnx.")],
    network: Annotated[Source, source_flags("ckpt", "model", "pretrained", "ema", "img_size", "model_args", path=True)],
    data: Annotated[Data, data_flags("preprocess")],
    with_preprocessing: Annotated[
        bool,
        option(
            RUN, "--with-preprocessing", help="Take uint8 pictures (B, H, W, C) of any size, and prepare them inside."
        ),
    ] = False,
    opset: Annotated[int | None, option(RUN, "--opset", help="ONNX operator set. Default: PyTorch's choice.")] = None,
    batch: Annotated[str, option(RUN, "--batch", help="dynamic, or the one batch size of the file.")] = "dynamic",
    as_json: Json = False,
) -> None:
    """Write the network as ONNX, after ONNX Runtime has computed the same outputs as PyTorch."""
    with quiet_libraries():
        from prune_realloc.checkpoints.facts import plain_facts
        from prune_realloc.core.taken import plain_taken
        from prune_realloc.data.preprocessing import CHANNEL_MODE, preprocessing, preprocessing_taken
        from prune_realloc.families.inputs import input_shape
        from prune_realloc.results.export import deployed, export_onnx
        from prune_realloc.results.opening import open_network

        opened = open_network(network)
        net, taken = deployed(opened), plain_facts(opened)
        shape, overrides = input_shape(net), data.preprocess or {}
        known = shape[0] in CHANNEL_MODE or overrides or with_preprocessing
        prepare = preprocessing(net, shape, overrides) if known else None
        if prepare is not None:
            taken |= plain_taken(preprocessing_taken(opened, prepare, overrides))
        found = export_onnx(
            net,
            onnx,
            input_shape=shape,
            batch=int(batch) if batch.isdecimal() else batch,
            opset=opset,
            prepare=prepare,
            with_preprocessing=with_preprocessing,
        )
    print_table(found, as_json, found.path, ("", ""), _rows(found), taken=taken)


def _rows(found: Exported) -> list[tuple[str, str]]:
    said = found.metadata
    rows = [
        ("input", f"images {found.input_shape}".replace("'", "")),
        ("input size", ", ".join(map(str, said["input_size"]))),
    ]
    if "mean" in said:
        how = f"{said['interpolation']}, crop_pct {said['crop_pct']:g}, crop_mode {said['crop_mode']}"
        rows += [
            ("mean", ", ".join(f"{value:g}" for value in said["mean"])),
            ("std", ", ".join(f"{value:g}" for value in said["std"])),
            ("preprocessing", f"{'inside' if said['preprocessing_inside'] else 'not inside'}: {how}"),
        ]
    if "class_names" in said:
        names = said["class_names"]
        rows.append(("classes", f"{len(names)}: {names[0]} ... {names[-1]}"))
    rows += [
        ("opset", str(found.opset)),
        ("size", f"{found.size / 1e6:.2f} MB"),
        ("difference to PyTorch", f"{found.difference:.1e} of the largest output"),
    ]
    if found.attention_in_products:
        rows.append(("attention", "as products, since PyTorch could not write the fused one"))
    if found.pixel_difference is not None:
        rows.append(("difference to timm's pixels", f"{found.pixel_difference:g} of 255"))
    return rows
