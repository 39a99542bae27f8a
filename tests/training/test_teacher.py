"""Which networks start from new weights."""

from support.training import described

from prune_realloc.checkpoints.load import DEMO
from prune_realloc.training.teacher import is_untrained

NAME = "deit_tiny_patch16_224"


def test_only_what_has_weights_is_trained_further():
    assert is_untrained(NAME)
    assert not is_untrained("demo")
    assert not is_untrained("hf-hub:some/net")
    assert not is_untrained(DEMO)


def test_an_emitted_network_is_untrained(tmp_path):
    assert is_untrained(described(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert not is_untrained(tmp_path)
