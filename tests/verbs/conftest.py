"""What several verbs' tests look at."""

import pytest
from support.applying import QUICK, half

from prune_realloc import apply


@pytest.fixture(scope="session")
def applied(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pruned")
    return apply(half(), out=folder, **QUICK), folder
