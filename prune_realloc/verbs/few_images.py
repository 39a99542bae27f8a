"""Whether more images would help: by their number, and by what the two halves of them say of each other."""

from __future__ import annotations

from prune_realloc.data.calibration import Calibration
from prune_realloc.pruning.examine import Examined
from prune_realloc.recipe.document import Recipe
from prune_realloc.verbs.carry_out import Result, is_fitted

_FEW = 128
"""On fewer images than this a refit can hurt."""
WIDE = 0.005
"""What a fit may put out less on unseen images, as a share of the variance, before it is said that more would
narrow that. Between few points: that accuracy gains by it is not shown (docs/benchmarks.md)."""


def few_images_notes(result: Result, seen: Examined, recipe: Recipe, images: Calibration | None) -> list[str]:
    """What must be known of a refit to these images."""
    return _count_note(result, seen, recipe, images) or _halves_note(result)  # few images are alike by chance


def _count_note(result: Result, seen: Examined, recipe: Recipe, images: Calibration | None) -> list[str]:
    """What to say where so few images were fitted that other images may be worse off than without."""
    if images is None or not recipe.compensate.refit or not is_fitted(seen, recipe):
        return []
    count, widest = len(images.checksums), max(len(units.index) for units in result.units.values())
    if count >= min(_FEW, widest):
        return []
    return [
        f"layers of up to {widest} inputs were refitted on {count} images: below {_FEW} a refit can lose more than it "
        "gains, which the images that were fitted do not show; take more (samples), or compensate.refit: false"
    ]


def _halves_note(result: Result) -> list[str]:
    """How a fit to one half of the images does on the other."""
    found = result.explained
    if found is None:
        return []
    more = "narrow that (samples)" if found.fitted - found.unseen > WIDE else "add little"
    return [
        f"fitted to one half of the images, layers put out {found.fitted:.1%} of the variance that they should there, "
        f"and {found.unseen:.1%} on the other half: more images would {more}"
    ]
