"""The target of a recipe."""

import pytest
from pydantic import ValidationError

from prune_realloc.recipe.target import TargetRule


@pytest.mark.parametrize("rule", [{"width": 16, "floor": 8}, {"move": False, "ceiling": 8}, {"ratio": 1.0, "floor": 8}])
def test_bounds_beside_an_exact_width_are_refused(rule):
    with pytest.raises(ValidationError, match="does not apply beside"):
        TargetRule(**rule)
