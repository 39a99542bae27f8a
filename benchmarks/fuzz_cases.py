"""A number -> a damaged input in a folder of its own, and the command line that opens it."""

import contextlib
import functools
import io
import json
import pickle
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import safetensors.torch
import torch
from fuzz_bytes import BYTES, SAFETENSORS, ZIP, png_with_size
from fuzz_seeds import CONTAINERS, FLAGS, RECIPE, network, write_folders, write_pictures
from fuzz_values import MAPPINGS, TENSORS, Call, calls, json_text, tree_changed, yaml_text
from PIL import Image

Args = tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One input and what is done with it."""

    name: str
    """`checkpoint 17`, `image 3`."""
    what: tuple[str, ...]
    """The sound file, and what was done to it."""
    args: Args
    """The command line."""
    folder: Path
    """All of the input, the output in `out`, and `marker` where code was executed."""


class Sound:
    """The sound files, written once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = network().state_dict()
        self.folders = write_folders(folder / "folders")
        self.pictures = folder / "pictures"
        write_pictures(self.pictures)


def checkpoint_case(sound: Sound, folder: Path, seed: int, number: int) -> Case:
    """A damaged checkpoint, folder or recipe."""
    rng = Random(f"{seed} checkpoint {number}")
    folder.mkdir(parents=True)
    make = rng.choices((_of_file, _of_bytes, _of_pickle, _of_folder, _of_recipe), (35, 20, 10, 22, 13))[0]
    what, args = make(sound, folder, rng)
    return Case(f"checkpoint {number}", what, tuple(map(str, args)), folder)


def image_case(sound: Sound, folder: Path, seed: int, number: int) -> Case:
    """Class folders with damaged pictures."""
    rng = Random(f"{seed} image {number}")
    pictures = folder / "pictures"
    shutil.copytree(sound.pictures, pictures)
    what = ("pictures", *(_damaged_picture(pictures, rng) for _ in range(rng.choice((1, 1, 2, 6)))))
    verb = rng.choice(("eval", "eval", "eval", "analyze"))
    out = ("-o", folder / "out", "--batch-size", 8, "--scorer", "fisher") if verb == "analyze" else ("--json",)
    args = (verb, sound.folders["ours"], "--data", pictures, *out)
    return Case(f"image {number}", what, tuple(map(str, args)), folder)


def _opened(sound: Sound, folder: Path, path: Path, flags: Args, rng: Random) -> tuple[Any, ...]:
    """The command line that opens a network, by one of the verbs that do."""
    match rng.choices(("analyze", "eval", "export", "train", "train with it"), (70, 20, 2, 4, 4))[0]:
        case "analyze":
            return ("analyze", path, *flags, "--scorer", "magnitude", "-o", folder / "out")
        case "eval":
            return ("eval", path, *flags, "--data", sound.pictures, "--json")
        case "export":
            return ("export", path, *flags, "--onnx", folder / "out" / "m.onnx")
        case "train":
            return ("train", path, "--data", sound.pictures, "-o", folder / "out", "--set", "epochs=0")
    more = ("--data", sound.pictures, "-o", folder / "out", "--set", "epochs=0")
    return ("train", sound.folders["ours"], "--teacher", path, *more)


def _of_file(sound: Sound, folder: Path, rng: Random) -> tuple[Args, Args]:
    """A container whose tensors or mappings were changed, one to three times."""
    name, kind = rng.choice([*CONTAINERS.items()])
    content, what = kind.content({key: tensor.clone() for key, tensor in sound.state.items()}), [name]
    for _ in range(rng.choice((1, 1, 2, 3))):
        what.append(_changed(content, rng))
    path = folder / (rng.choice(("net", "vit_tiny_patch16_224", "deit-tiny", "ü \n", "[red]")) + kind.suffix)
    what.append(_save(content, path, _format(rng)))
    flags = kind.flags if rng.random() < 0.8 else rng.choice(((), (*FLAGS, "--ema"), (*FLAGS, "--img-size", "64")))
    return tuple(what), _opened(sound, folder, path, flags, rng)


def _changed(content: dict[Any, Any], rng: Random) -> str:
    """Changes one of the mappings, or tensors inside one of them; says how."""
    holders = [content, *(value for value in content.values() if isinstance(value, dict) and value)]
    holder = rng.choice(holders)
    names = [key for key, value in holder.items() if isinstance(value, torch.Tensor)]
    if not names or rng.random() < 0.4:
        how, change = rng.choice([*MAPPINGS.items()])
        if holder:
            change(holder, rng)
        return how
    how, alter = rng.choice([*TENSORS.items()])
    every = rng.random() < 0.4
    for key in names if every else [rng.choice(names)]:
        with contextlib.suppress(RuntimeError):  # some tensors cannot be of that kind
            holder[key] = alter(holder[key], rng)
    return f"{'all' if every else 'one'} {how}"


def _format(rng: Random) -> str:
    return rng.choices(("zip", "old format", "pickle"), (8, 1, 1))[0]


def _save(content: Any, path: Path, how: str) -> str:
    """Writes the file, in another format where its own cannot hold it; says in which."""
    if path.suffix == ".safetensors":
        plain = {str(key): value for key, value in content.items() if isinstance(value, torch.Tensor)}
        with contextlib.suppress(Exception):  # it holds no such tensors, and then the name is wrong
            path.write_bytes(safetensors.torch.save({key: value.contiguous() for key, value in plain.items()}))
            return "safetensors"
    try:
        if how == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
    except Exception:  # what cannot be saved at all is a file cut short
        return "unfinished"
    return how


def _of_bytes(sound: Sound, folder: Path, rng: Random) -> tuple[Args, Args]:
    """A container whose bytes were damaged."""
    name, kind = rng.choice([*CONTAINERS.items()])
    path = folder / f"net{kind.suffix}"
    _save(kind.content(sound.state), path, "zip")
    damages = {**BYTES, **(SAFETENSORS if path.suffix == ".safetensors" else ZIP)}
    how = rng.choice([*damages])
    path.write_bytes(damages[how](path.read_bytes(), rng))
    return (name, how), _opened(sound, folder, path, kind.flags, rng)


def _of_pickle(sound: Sound, folder: Path, rng: Random) -> tuple[Args, Args]:
    """A file that calls code where it is executed."""
    evil, marker = folder / "evil.bin", folder / "marker"
    evil.write_bytes(pickle.dumps(Call(Path.touch, marker)))
    name, kind = rng.choice([item for item in CONTAINERS.items() if item[0] != "safetensors"])
    content = kind.content(sound.state)
    how, call = rng.choice([*calls(marker, evil).items()])
    holder = rng.choice([content, *(value for value in content.values() if isinstance(value, dict))])
    place = rng.choice(("beside", "first", "in place of a tensor", "the whole file"))
    if place == "the whole file":
        content = call
    elif place == "first":
        inner = dict(holder)
        holder.clear()
        holder.update({"a": call} | inner)
    else:
        holder[rng.choice([*holder]) if place == "in place of a tensor" else "extra"] = call
    path = folder / f"net{rng.choice((kind.suffix, '.pt', '.bin', ''))}"
    written = _save(content, path, _format(rng))
    return (name, f"calls {how}", place, written), _opened(sound, folder, path, kind.flags, rng)


def _of_folder(sound: Sound, folder: Path, rng: Random) -> tuple[Args, Args]:
    """A folder whose config.json or weights were damaged, or whose files are not what they are named."""
    name = rng.choice([*sound.folders])
    path = folder / rng.choice(("net", "ü [red]", "two\nlines"))
    shutil.copytree(sound.folders[name], path)
    config, weights = path / "config.json", path / "model.safetensors"
    how = rng.choices(("values", "bytes", "weights", "files"), (70, 10, 10, 10))[0]
    if how == "values":
        tree = json.loads(config.read_text())
        for _ in range(rng.choice((1, 1, 2))):
            tree = tree_changed(tree, rng)
        config.write_bytes(json_text(tree, rng))
    elif how == "files":
        how = rng.choice([*_FILES])
        _FILES[how](path, config, weights)
    else:
        damaged = config if how == "bytes" else weights
        kind = rng.choice([*BYTES])
        damaged.write_bytes(BYTES[kind](damaged.read_bytes(), rng))
        how = f"{damaged.name}: {kind}"
    return (f"folder of {name}", how), _opened(sound, folder, path, (), rng)


def _index(path: Path, weights: Path, name: str) -> None:
    weights.unlink()
    index = {"metadata": {}, "weight_map": {"cls_token": name}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _replaced(place: Path, make: Callable[[Path], object]) -> None:
    place.unlink()
    make(place)


_FILES: Mapping[str, Callable[[Path, Path, Path], object]] = {
    "no weights": lambda path, config, weights: weights.unlink(),
    "no config": lambda path, config, weights: config.unlink(),
    "weights are a folder": lambda path, config, weights: _replaced(weights, Path.mkdir),
    "config is a folder": lambda path, config, weights: _replaced(config, Path.mkdir),
    "weights are a circle": lambda path, config, weights: _replaced(weights, lambda place: place.symlink_to(place)),
    "weights are endless": lambda path, config, weights: _replaced(
        weights, lambda place: place.symlink_to("/dev/zero")
    ),
    "shards elsewhere": lambda path, config, weights: _index(path, weights, "../../../etc/passwd"),
    "shards at an address": lambda path, config, weights: _index(path, weights, "https://127.0.0.1:9/x.safetensors"),
    "shards of no name": lambda path, config, weights: _index(path, weights, ""),
}


def _of_recipe(sound: Sound, folder: Path, rng: Random) -> tuple[Args, Args]:
    """A recipe, checked or carried out."""
    tree: Any = RECIPE | {"source": {**RECIPE["source"], "ckpt": str(sound.folder / "folders" / "bare.pth")}}
    for _ in range(rng.choice((1, 1, 2, 3))):
        tree = tree_changed(tree, rng)
    path, text = folder / "recipe.yaml", yaml_text(tree, rng, folder / "marker")
    path.write_bytes(BYTES[how := rng.choice([*BYTES])](text, rng) if (bad := rng.random() < 0.15) else text)
    verb = rng.choice(("validate", "validate", "apply"))
    what = ("recipe", how if bad else "values")
    return what, ("validate", path) if verb == "validate" else ("apply", path, "-o", folder / "out")


def _damaged_picture(pictures: Path, rng: Random) -> str:
    """Damages one picture, or the folders around it; says how."""
    files = sorted(path for path in pictures.rglob("*") if path.is_file() and not path.is_symlink())
    if not files:
        return "no picture left"
    path = rng.choice(files)
    if rng.random() < 0.25:
        how = rng.choice([*_PLACES])
        _PLACES[how](path, rng)
        return how
    if path.suffix == ".png" and rng.random() < 0.3:
        path.write_bytes(png_with_size(path.read_bytes(), rng))
        return "png of another size"
    if rng.random() < 0.25:
        how = rng.choice([*_MODES])
        path.write_bytes(_MODES[how]())
        return f"{path.name} is {how}"
    how = rng.choice([*BYTES])
    path.write_bytes(BYTES[how](path.read_bytes(), rng) if path.stat().st_size else b"")
    return f"{path.name}: {how}"


def _encoded(mode: str, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (9, 11), options.pop("color", 1)).save(buffer, kind, **options)
    return buffer.getvalue()


_KINDS = {"png": ("1", "LA", "P", "RGBA"), "tiff": ("1", "I;16", "I", "F", "CMYK", "LAB"), "jpeg": ("CMYK",)}
_KINDS |= {"gif": ("P",), "webp": ("RGBA",)}
_MODES: Mapping[str, Callable[[], bytes]] = {
    **{f"a {mode} {kind}": functools.partial(_encoded, mode, kind) for kind, modes in _KINDS.items() for mode in modes},
    "NaN": functools.partial(_encoded, "F", "tiff", color=float("nan")),
    "a page": lambda: b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    "an archive": lambda: b"PK\x05\x06" + bytes(18),
    "a drawing that runs": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n",
}
_PLACES: Mapping[str, Callable[[Path, Random], object]] = {
    "odd name": lambda path, rng: path.rename(
        path.with_name(f"{rng.choice(('ü', 'a' * 90, chr(27) + '[31m', 'x;y', '-o'))}.png")
    ),
    "odd class": lambda path, rng: path.parent.rename(
        path.parent.with_name(rng.choice(("[red]", "two\nlines", "\x1b[31m", "-")))
    ),
    "name with a broken letter": lambda path, rng: path.rename(path.parent / f"\udcff{path.suffix}"),
    "picture is a folder": lambda path, rng: _replaced(path, Path.mkdir),
    "picture is a circle": lambda path, rng: _replaced(path, lambda place: place.symlink_to(place)),
    "picture leads nowhere": lambda path, rng: _replaced(path, lambda place: place.symlink_to("/no/such.png")),
    "stray picture": lambda path, rng: shutil.copy(path, path.parent.parent),
    "stray text": lambda path, rng: (path.parent / "labels.csv").write_text("a,b\n"),
    "one class more": lambda path, rng: _new_class(path.parent),
    "one class less": lambda path, rng: shutil.rmtree(path.parent),
    "empty class": lambda path, rng: (path.parent.parent / "empty").mkdir(exist_ok=True),
    "notebook's copies": lambda path, rng: (path.parent / ".ipynb_checkpoints").mkdir(exist_ok=True),
    "classes one deeper": lambda path, rng: path.parent.rename(
        _new_folder(path.parent.parent / "site") / path.parent.name
    ),
    "no folder": lambda path, rng: shutil.rmtree(path.parent.parent),
    "only a part": lambda path, rng: path.parent.rename(path.parent.with_name("train")),
}


def _new_class(folder: Path) -> None:
    if not (other := folder.parent / "zebra").exists():
        shutil.copytree(folder, other, symlinks=True)


def _new_folder(path: Path) -> Path:
    path.mkdir(exist_ok=True)
    return path
