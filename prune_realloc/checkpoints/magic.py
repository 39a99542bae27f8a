"""Formats of files that are told by their first bytes, with the way to what is needed."""

from __future__ import annotations

import re

STATE = "torch.save(net.state_dict(), 'weights.pth')"
UNPACK = "unpack it and give the file inside"
CONVERT = "load it with the library that wrote it, and save the tensors by timm's names with safetensors or torch.save"
NUMPY = "load it with numpy, make tensors of the arrays by timm's names, and save them with safetensors or torch.save"
MERGE = "merge it first: PeftModel.from_pretrained(base, folder).merge_and_unload().save_pretrained('merged')"
UNQUANTISED = "give the weights from before the quantisation"
_FLAX = ("a Flax (msgpack) checkpoint", f"{CONVERT}; transformers before version 5 does it with from_flax=True")
_MAGIC: tuple[tuple[bytes, int, str, str], ...] = (
    (b"version https://git-lfs", 0, "a pointer of Git LFS and not the file itself", "fetch it with git lfs pull"),
    (b"\x93NUMPY", 0, "a NumPy array (.npy)", NUMPY),
    (b"\x89HDF\r\n\x1a\n", 0, "an HDF5 file, as Keras and TensorFlow write them", CONVERT),
    (b"GGUF", 0, "a GGUF file of quantised weights", UNQUANTISED),
    (b"TFL3", 4, "a TensorFlow Lite network", "give the checkpoint that it was exported from"),
    (b"model_checkpoint_path:", 0, "the note of a TensorFlow checkpoint", CONVERT),
    (b"\x1f\x8b", 0, "a gzip archive", UNPACK),
    (b"BZh", 0, "a bzip2 archive", UNPACK),
    (b"\xfd7zXZ\x00", 0, "an xz archive", UNPACK),
    (b"\x28\xb5\x2f\xfd", 0, "a zstd archive", UNPACK),
    (b"7z\xbc\xaf\x27\x1c", 0, "a 7z archive", UNPACK),
    (b"Rar!", 0, "a rar archive", UNPACK),
    (b"ustar", 257, "a tar archive", UNPACK),
    (b"\x89PNG", 0, "a picture", "give the file of the weights"),
    (b"\xff\xd8\xff", 0, "a picture", "give the file of the weights"),
    (b"%PDF", 0, "a PDF document", "give the file of the weights"),
)
"""What stands at a place in the file, what the file then is, and the remedy."""
_LEVELDB = bytes.fromhex("57fb808b247547db")
"""The end of a table, in which TensorFlow keeps the index of a checkpoint."""


def is_safetensors(head: bytes) -> bool:
    """Whether a file that begins so has the length of a header and its first brace, whatever it is called."""
    return head[5:9] == b"\0\0\0{"


def kind_of_bytes(head: bytes, tail: bytes, name: str) -> tuple[str, str] | None:
    """What a file is and the remedy; None: nothing speaks against it.

    Args:
        head: its first 4096 bytes.
        tail: its last 8.
        name: of the parts of a TensorFlow checkpoint, which have no other mark.
    """
    for magic, at, kind, remedy in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return kind, remedy
    return _text(head) or _first_fields(head, tail, name)


def _text(head: bytes) -> tuple[str, str] | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:64].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<?xml")):
        return (
            "a web page and not the file behind it",
            "download the file itself, for Hugging Face by its /resolve/ address",
        )
    if start.startswith(b"{") and b'"weight_map"' not in head and b'"' in start:
        return "JSON text and no file of weights", "give the weights, or the folder that holds both"
    return None


def _first_fields(head: bytes, tail: bytes, name: str) -> tuple[str, str] | None:
    """Formats without a magic number, by how their first fields are written."""
    if tail == _LEVELDB or re.search(r"\.data-\d{5}-of-\d{5}$", name):
        return "a part of a TensorFlow checkpoint", CONVERT
    if head[:3] == b"\x08\x01\x12":
        return "a TensorFlow saved model", CONVERT
    if (
        head[:1] == b"\x08"
        and head[1:2]
        and 2 <= head[1] <= 32
        and head[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42")
    ):
        return "an ONNX network", f"give the checkpoint that it was exported from, {STATE}"
    if re.match(rb"(?:[\x81-\x8f]|\xde..|\xdf....)(?:[\xa1-\xbf]|\xd9.)[\w.\-/]", head, re.DOTALL):
        return _FLAX
    if re.match(rb"\x80[\x02-\x05]", head):
        return "a pickle that torch did not write", "save the tensors alone with torch.save or safetensors"
    return None
