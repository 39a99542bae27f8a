"""Folders that hold no weights that can be read here, told by their files."""

from __future__ import annotations

import re
from pathlib import Path

from prune_realloc.checkpoints.magic import CONVERT, MERGE, UNQUANTISED

_WHOLE = re.compile(
    r"(model|pytorch_model|open_clip_\w*model|diffusion_pytorch_model)(\.\w+)?\.(safetensors|bin)(\.index\.json)?|last|best"
)
"""Weights that can be read, whatever else lies beside them."""
CONSOLIDATE_TORCH = (
    "consolidate it: python -m torch.distributed.checkpoint.format_utils dcp_to_torch FOLDER weights.pth"
)
CONSOLIDATE_DEEPSPEED = "consolidate it, in its folder: python zero_to_fp32.py . consolidated"
_ROWS: tuple[tuple[str, str, str], ...] = (
    (
        r"adapter_(config\.json|model\..*)",
        "the folder of an adapter (LoRA, PEFT) without the network that it changes",
        MERGE,
    ),
    (
        r"\.metadata|.*\.distcp",
        "a sharded checkpoint of torch.distributed (FSDP)",
        CONSOLIDATE_TORCH,
    ),
    (
        r"(bf16_|fp16_)?zero_pp_rank_.*|zero_to_fp32\.py|global_step\d+",
        "a sharded DeepSpeed checkpoint",
        CONSOLIDATE_DEEPSPEED,
    ),
    (r"saved_model\.pb(txt)?", "a TensorFlow saved model", CONVERT),
    (r"tf_model\.h5|.*\.ckpt-\d+\.index|.*\.ckpt\.index", "the folder of a TensorFlow checkpoint", CONVERT),
    (r"flax_model.*\.msgpack", "the folder of a Flax (msgpack) checkpoint", CONVERT),
    (r"manifest\.ocdbt|_CHECKPOINT_METADATA|_METADATA", "the folder of an Orbax (JAX) checkpoint", CONVERT),
    (r".*\.onnx", "the folder of an ONNX network", "give the checkpoint that it was exported from"),
    (r".*\.gguf", "a folder of quantised weights (GGUF)", UNQUANTISED),
)
"""The name of a file, what a folder with it is, and the remedy; the first row counts."""


def kind_of_folder(folder: Path) -> tuple[str, str] | None:
    """What the folder is and the remedy; None: nothing speaks against it."""
    names = sorted(entry.name for entry in folder.iterdir())
    if any(_WHOLE.fullmatch(name) for name in names):
        return None
    for pattern, kind, remedy in _ROWS:
        if any(re.fullmatch(pattern, name) for name in names):
            return kind, remedy
    return None
