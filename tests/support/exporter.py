"""An exporter and a runtime that take no time, in place of those of PyTorch and ONNX."""

from types import SimpleNamespace

import torch


def fake_exporter(monkeypatch, *, opset=20, files=("",)):
    """torch.onnx.export in no time: writes files of one byte."""

    def save(path, external_data):
        for suffix in files:
            path.with_name(path.name + suffix).write_bytes(b"x")

    program = SimpleNamespace(
        model=SimpleNamespace(opset_imports={"": opset}, graph=SimpleNamespace(all_nodes=list), metadata_props={}),
        save=save,
    )
    monkeypatch.setattr(torch.onnx, "export", lambda *args, **options: program)


def fake_session(monkeypatch, outputs):
    def run(names, feeds):
        with torch.inference_mode():
            return [outputs(torch.from_numpy(feeds["images"])).numpy()]

    session = SimpleNamespace(run=run)
    monkeypatch.setattr("prune_realloc.results.parity.onnx_session", lambda path: session)
