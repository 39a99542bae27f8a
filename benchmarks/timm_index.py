"""Write the fingerprints of all of timm's networks, by which a checkpoint without a name is recognised.

Beside them, of one network of each module, the digests of its tensors' names, to say what an unknown one is like.

python benchmarks/timm_index.py

Takes about three minutes; run it after `pip install --upgrade timm`.
"""

import json
import warnings
from collections.abc import Mapping

import timm
import torch

from prune_realloc.checkpoints.index import INDEX_FILE, fingerprints, names_of


def main() -> None:
    warnings.simplefilter("ignore")  # timm says of old names that they are old
    networks, names, seen = {}, {}, set()
    own = [name for name in timm.list_models() if timm.models.model_entrypoint(name).__module__.startswith("timm.")]
    for name in own:
        with torch.device("meta"):
            state = timm.create_model(name).state_dict()
        networks[name] = list(fingerprints(state))
        module = timm.models.model_entrypoint(name).__module__
        if module not in seen:  # one of each stands for all, where only the likeness is asked for
            seen.add(module)
            names[name] = names_of(state)
    INDEX_FILE.write_text(
        f'{{\n "timm": "{timm.__version__}",\n "networks": {{\n{_lines(networks)}\n }},\n'
        f' "names": {{\n{_lines(names)}\n }}\n}}\n'
    )


def _lines(entries: Mapping[str, object]) -> str:
    return ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())


if __name__ == "__main__":
    main()
