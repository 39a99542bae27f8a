import pytest
import torch
from support.networks import build

from prune_realloc.core.errors import InputError
from prune_realloc.results.backends import BACKENDS
from prune_realloc.results.bench import bench

SHAPE = (3, 32, 32)
QUICK = {"warmup": 0, "rounds": 2, "seconds": 0.0}


def test_every_backend_runs():
    found = bench({"a": build(depth=1), "b": build(depth=1)}, SHAPE, backends=BACKENDS, batch_sizes=(2,), **QUICK)
    assert [t.backend for t in found.timings] == [name for name in BACKENDS for _ in "ab"]
    assert "onnxruntime" in found.versions


def test_the_compiled_backend_lays_out_the_weights_once():
    from torch._inductor.utils import run_and_get_code

    net, images = torch.nn.Conv2d(3, 8, 3), torch.randn(2, *SHAPE)
    run = BACKENDS["compiled"](net, SHAPE, 1, torch.device("cpu"))
    with torch.inference_mode():
        expected = net(images)
    for again in (False, True):  # what compiled it before may be gone
        torch.compiler.reset()
        out, (code,) = run_and_get_code(run, images)
        torch.testing.assert_close(out, expected)
        assert "mkldnn" in code, f"a convolution whose weights are inputs is not oneDNN's packed one ({again})"
    with torch.inference_mode():
        run(images)
        with torch.compiler.set_stance("fail_on_recompile"):
            run(images)


def test_a_compiler_that_fails_is_named(monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def compile(net, **options):
        def run(images):
            raise TorchDynamoException("no C++ compiler\nand a long story")

        return run

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(InputError, match=r"'compiled' does not work here \(no C\+\+ compiler\)"):
        bench({"a": build(depth=1)}, SHAPE, backends=("compiled",), **QUICK)
