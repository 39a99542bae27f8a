import pytest
from support.data import write_idx
from support.networks import build

from prune_realloc.core.errors import InputError
from prune_realloc.data.images import open_images
from prune_realloc.data.stream import use_labels


def test_a_part_without_the_last_class_fits_the_network(tmp_path):
    source = open_images(str(write_idx(tmp_path, "train", [0, 1, 3])))
    assert use_labels(build(num_classes=5), source, True)
    assert use_labels(build(num_classes=4), source, True)
    with pytest.raises(InputError, match="has labels up to 3, the model 3 classes"):
        use_labels(build(num_classes=3), source, True)
