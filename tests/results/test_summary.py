import dataclasses
import json

import numpy as np
import pytest
from support.toy_analysis import make_toy_analysis

from prune_realloc.results.summary import _units_for, summary


def test_concentration_by_hand():
    assert _units_for(np.array([6.0, 1.0, 3.0]), 0.9) == 2  # 6 + 3 are nine tenths
    assert _units_for(np.array([1.0, 1.0, 1.0, 1.0]), 0.9) == 4
    assert _units_for(np.array([-1.0, 0.0]), 0.9) == 0


def test_summary_by_hand():
    numbers = summary(make_toy_analysis())
    # positive parts: qk 15.5, v 12, ffn 12.3 of 39.8 together; heads and embed each by themselves
    assert numbers["sites"]["blocks.0.v"]["share"] == pytest.approx(12 / 39.8)
    assert numbers["sites"]["blocks.0.heads"]["share"] == 1
    assert numbers["sites"]["blocks.0.v"] | {"share": 0} == {
        "width": 2,
        "units": 4,
        "score": 11.0,
        "share": 0,
        "units90": 3,
    }
    assert numbers["params"] == 87
    magnitude = summary(dataclasses.replace(make_toy_analysis(), unit="magnitude"))
    assert magnitude["sites"]["blocks.0.v"]["share"] == 1  # magnitudes of different axes do not compare
    json.dumps(numbers, allow_nan=False)
