import pytest
from support.networks import build

from prune_realloc.core.errors import InputError
from prune_realloc.data.preprocessing import preprocessing


def test_preprocessing_comes_from_the_model_and_can_be_overridden():
    model = build()
    own = preprocessing(model, (3, 32, 32), {})
    assert (own.mean, own.input_size) == ((0.5, 0.5, 0.5), (3, 32, 32))
    assert preprocessing(model, (3, 32, 32), {"mean": (0.1, 0.2, 0.3), "std": None}).mean == (0.1, 0.2, 0.3)
    assert preprocessing(model, (1, 32, 32), {}).mean == (0.5,)
    with pytest.raises(InputError, match="mean has 2 values"):
        preprocessing(model, (3, 32, 32), {"mean": (0.1, 0.2)})
    with pytest.raises(InputError, match="4 channels"):
        preprocessing(model, (4, 32, 32), {})
