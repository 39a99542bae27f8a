"""The verb `export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from prune_realloc.cli.console import print_table, quiet_libraries
from prune_realloc.cli.options import RUN, Json, option, source_flags
from prune_realloc.recipe.document import Source


def export(
    onnx: Annotated[Path, option(RUN, "--onnx", help="The file to write, such as model.onnx.")],
    network: Annotated[Source, source_flags("model", "pretrained", "ema", "img_size", "model_args", path=True)],
    opset: Annotated[int | None, option(RUN, "--opset", help="ONNX operator set. Default: PyTorch's choice.")] = None,
    batch: Annotated[str, option(RUN, "--batch", help="dynamic, or the one batch size of the file.")] = "dynamic",
    as_json: Json = False,
) -> None:
    """Write the network as ONNX, after ONNX Runtime has computed the same outputs as PyTorch."""
    with quiet_libraries():
        from prune_realloc.families.inputs import input_shape
        from prune_realloc.results.export import deployed, export_onnx
        from prune_realloc.results.opening import open_network

        net = deployed(open_network(network))
        size = int(batch) if batch.isdecimal() else batch
        found = export_onnx(net, onnx, input_shape=input_shape(net), batch=size, opset=opset)
    rows = [
        ("input", f"images {found.input_shape}"),
        ("opset", str(found.opset)),
        ("size", f"{found.size / 1e6:.2f} MB"),
        ("difference to PyTorch", f"{found.difference:.1e} of the largest output"),
    ]
    print_table(found, as_json, found.path, ("", ""), rows)
