"""Quick applications of a recipe to the shipped ViT."""

import numpy as np
from PIL import Image

from prune_realloc import build_recipe

FAST = {"samples": 128}
QUICK = {"timed": False, "eval_samples": 128, "batch_size": 64}


def half(**more):
    return build_recipe({"budget": {"keep_macs": 0.5}, "data": FAST} | more)


def folder_of_images(folder, parts):
    for part, count in parts.items():
        for label in range(10):
            (folder / part / str(label)).mkdir(parents=True)
            for i in range(count):
                pixels = np.random.default_rng([label, i, len(part)]).integers(0, 255, (28, 28), np.uint8)
                Image.fromarray(pixels).save(folder / part / str(label) / f"{i}.png")
    return str(folder)
