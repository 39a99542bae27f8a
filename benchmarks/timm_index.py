"""Write the fingerprints of all of timm's networks, by which a checkpoint without a name is recognised.

python benchmarks/timm_index.py

Takes about three minutes; run it after `pip install --upgrade timm`.
"""

import json
import warnings

import timm
import torch

from prune_realloc.checkpoints.index import INDEX_FILE, fingerprints


def main() -> None:
    warnings.simplefilter("ignore")  # timm says of old names that they are old
    networks = {}
    own = [name for name in timm.list_models() if timm.models.model_entrypoint(name).__module__.startswith("timm.")]
    for name in own:
        with torch.device("meta"):
            networks[name] = list(fingerprints(timm.create_model(name).state_dict()))
    lines = ",\n".join(f"  {json.dumps(name)}: {json.dumps(prints)}" for name, prints in networks.items())
    INDEX_FILE.write_text(f'{{\n "timm": "{timm.__version__}",\n "networks": {{\n{lines}\n }}\n}}\n')


if __name__ == "__main__":
    main()
