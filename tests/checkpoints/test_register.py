"""timm knows our architectures, whatever is imported first; importing the package imports neither timm nor torch."""

import subprocess
import sys

import pytest
import timm
from support.efficientvit import SMALL, images

from prune_realloc.core.errors import InputError
from prune_realloc.models.efficientvit import EfficientVit


def test_create_model_knows_it():
    net = timm.create_model("efficientvit_flex", **SMALL)
    assert isinstance(net, EfficientVit)
    assert net.default_cfg["first_conv"] == "patch_embed.conv1.conv"
    maps = timm.create_model("efficientvit_flex", features_only=True, **SMALL)
    assert [f.shape[1:] for f in maps(images())] == [(16, 7, 7), (24, 4, 4), (32, 2, 2)]
    assert maps.feature_info.reduction() == [4, 8, 16]
    with pytest.raises(InputError, match="mlp_ratio is no argument of efficientvit_flex"):
        timm.create_model("efficientvit_flex", mlp_ratio=3)


@pytest.mark.parametrize(
    "imports",
    [
        "import prune_realloc, timm",
        "import timm, prune_realloc",
        "import prune_realloc; from timm.models import vision_transformer",
        "import timm.layers; import prune_realloc",
        "import importlib.util, prune_realloc; importlib.util.find_spec('timm')",
    ],
)
def test_it_is_known_whatever_is_imported_first(imports):
    probe = f"{imports}; import timm; assert timm.is_model('prune_realloc') and timm.is_model('efficientvit_flex')"
    subprocess.run([sys.executable, "-W", "error", "-c", probe], check=True)


def test_importing_the_package_alone_imports_neither_timm_nor_torch():
    probe = """
import sys, prune_realloc
assert "load_model" in prune_realloc.__all__ and "load_model" in dir(prune_realloc)
assert not {"torch", "timm"} & {*sys.modules}
from prune_realloc import *
assert load_model is prune_realloc.load_model
"""
    subprocess.run([sys.executable, "-c", probe], check=True)
    import prune_realloc

    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        prune_realloc.nothing  # noqa: B018
