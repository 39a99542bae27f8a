"""Damage to the bytes of files: any file, zip archives, safetensors, PNG."""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random

Damage = Callable[[bytes, Random], bytes]


def _flipped(content: bytes, rng: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 4, 40))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _flipped_head(content: bytes, rng: Random) -> bytes:
    return _flipped(content[:64], rng) + content[64:]


def _cut(content: bytes, rng: Random) -> bytes:
    return content[: rng.randrange(len(content))]


def _inserted(content: bytes, rng: Random) -> bytes:
    place = rng.randrange(len(content))
    return content[:place] + rng.randbytes(rng.choice((1, 16, 4096))) + content[place:]


def _repeated(content: bytes, rng: Random) -> bytes:
    first, last = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:last] + content[first:]


def _zeroed(content: bytes, rng: Random) -> bytes:
    first, last = sorted(rng.randrange(len(content)) for _ in range(2))
    return content[:first] + bytes(last - first) + content[last:]


BYTES: dict[str, Damage] = {
    "bytes flipped": _flipped,
    "bytes of the head flipped": _flipped_head,
    "bytes cut off": _cut,
    "bytes inserted": _inserted,
    "bytes repeated": _repeated,
    "bytes zeroed": _zeroed,
    "nothing left": lambda content, rng: b"",
    "twice": lambda content, rng: content + content,
    "other file": lambda content, rng: rng.choice(
        (b"\x89PNG\r\n\x1a\n", b"GIF89a", b"PK\x03\x04", b"\x80\x05]q", b"{}")
    ),
    "page of a server": lambda content, rng: b"<!DOCTYPE html><html><body>404 not found</body></html>",
    "pointer of git-lfs": lambda content, rng: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
}


def _members(content: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {entry.filename: archive.read(entry) for entry in archive.infolist()}


def _archive(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _swapped(content: bytes, rng: Random) -> bytes:
    members = _members(content)
    one, other = rng.sample(sorted(members), 2)
    members[one], members[other] = members[other], members[one]
    return _archive(members)


def _member_missing(content: bytes, rng: Random) -> bytes:
    members = _members(content)
    del members[rng.choice(sorted(members))]
    return _archive(members)


def _member_renamed(content: bytes, rng: Random) -> bytes:
    members = _members(content)
    name = rng.choice(sorted(members))
    new = rng.choice(("../../escaped", "/tmp/escaped", "data.pkl", "a/b/c", "x" * 5000, "ü\n\x1b[31m"))
    return _archive({(new if key == name else key): value for key, value in members.items()})


def _member_damaged(content: bytes, rng: Random) -> bytes:
    members = _members(content)
    name = rng.choice(sorted(name for name, value in members.items() if value))
    return _archive(members | {name: rng.choice((_flipped, _cut, _inserted))(members[name], rng)})


ZIP: dict[str, Damage] = {
    "members swapped": _swapped,
    "member missing": _member_missing,
    "member renamed": _member_renamed,
    "member damaged": _member_damaged,
    "members compressed": lambda content, rng: _archive(_members(content), zipfile.ZIP_DEFLATED),
    "members in a folder": lambda content, rng: _archive({f"in/{k}": v for k, v in _members(content).items()}),
}


def safetensors_with(content: bytes, change: Callable[[dict], object]) -> bytes:
    """The file with another header."""
    size = struct.unpack("<Q", content[:8])[0]
    header = json.dumps(change(json.loads(content[8 : 8 + size]))).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + size :]


def _header_size(content: bytes, rng: Random) -> bytes:
    return struct.pack("<Q", rng.choice((0, 1, 2**20, 2**40, 2**64 - 1))) + content[8:]


def _header_field(content: bytes, rng: Random) -> bytes:
    def change(header: dict) -> object:
        entry = header[rng.choice(sorted(name for name in header if name != "__metadata__"))]
        key = rng.choice(sorted(entry))
        entry[key] = rng.choice((None, -1, [0, 2**63], [2**62, 2**62], "F8", "I64", [[]], {}, [0, 0], "../x"))
        return header

    return safetensors_with(content, change)


SAFETENSORS: dict[str, Damage] = {
    "size of the header": _header_size,
    "field of the header": _header_field,
    "header is a list": lambda content, rng: safetensors_with(content, lambda header: [header]),
    "header is deep": lambda content, rng: struct.pack("<Q", 200_000) + b"[" * 200_000,
    "name in the header": lambda content, rng: safetensors_with(
        content, lambda header: {rng.choice(("", "\x1b[31m\n", "ü" * 9999)) + k: v for k, v in header.items()}
    ),
}


def png_with_size(content: bytes, rng: Random) -> bytes:
    """A PNG that says that it is of another size, with the right checksum."""
    sizes = ((0, 0), (1, 2**31 - 1), (30000, 30000), (2**31 - 1, 2**31 - 1), (7, 5))
    head = content[12:16] + struct.pack(">II", *rng.choice(sizes)) + content[24:29]
    return content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]
