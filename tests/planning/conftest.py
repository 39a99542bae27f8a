"""Analyses that several modules plan by."""

import pytest
from support.analyses import DEIT_S, make_analysis

from prune_realloc.core.analysis import Analysis


@pytest.fixture(scope="session")
def deit_s() -> Analysis:
    return make_analysis(**DEIT_S)
