"""Measure how a package is built: levels of import, circles, sizes of files, functions and classes.

python benchmarks/house.py [FOLDER] [--before COMMIT] [--out docs/house.json]

FOLDER is that of any package; by default ours. `--before` measures ours at an earlier commit too.
"""

import argparse
import ast
import io
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator, Mapping
from operator import itemgetter
from pathlib import Path
from typing import Any

import grimp
from record import keep

OURS = Path(__file__).parent.parent / "prune_realloc"
LONG_FILE = 350
LONG_FUNCTIONS = (40, 60)

Graph = Mapping[str, frozenset[str]]
"""The modules that each module imports."""


def imports(folder: Path) -> Graph:
    """Import graph of the modules of a package, imports inside functions and for type checkers included."""
    sys.path.insert(0, str(folder.parent.resolve()))
    try:
        graph = grimp.build_graph(folder.name, cache_dir=None)
    finally:
        sys.path.pop(0)
    return {name: frozenset(graph.find_modules_directly_imported_by(name)) for name in graph.modules}


def rooms(modules: Graph) -> Graph:
    """The same graph between the folders (or files) directly below the package."""

    def room(name: str) -> str:
        return ".".join(name.split(".")[:2])

    merged: dict[str, set[str]] = {room(name): set() for name in modules}
    for name, used in modules.items():
        merged[room(name)] |= {room(other) for other in used} - {room(name)}
    return {name: frozenset(used) for name, used in merged.items()}


def reachable(graph: Graph) -> dict[str, set[str]]:
    """All modules that each module imports, at once or through others."""
    reached = {}
    for start in graph:
        found: set[str] = set()
        waiting = list(graph[start])
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += graph[name]
        reached[start] = found
    return reached


def circles(graph: Graph) -> list[list[str]]:
    """Sets of modules that import each other, directly or through others (strongly connected components)."""
    reached = reachable(graph)
    members = {frozenset(b for b in reached[a] if a in reached[b]) for a in graph if a in reached[a]}
    return sorted(sorted(circle) for circle in members)


def levels(graph: Graph) -> int:
    """Number of modules on the longest chain of imports; a circle counts as one module."""
    inside = {name: frozenset(circle) for circle in circles(graph) for name in circle}
    depth: dict[frozenset[str], int] = {}

    def measure(name: str) -> int:
        circle = inside.get(name, frozenset({name}))
        if circle not in depth:
            below = {other for member in circle for other in graph[member]} - circle
            depth[circle] = 1 + max(map(measure, below), default=0)
        return depth[circle]

    return max(map(measure, graph))


def functions(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Name and number of lines of each function and method, docstring included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def attributes(node: ast.ClassDef) -> int:
    """Number of declared fields and of names that methods set on `self`."""
    names = set()
    for inner in ast.walk(node):
        match inner:
            case ast.AnnAssign(target=ast.Name(id=name)) if inner in node.body:
                names.add(name)
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                names.add(name)
    return len(names)


def untyped(tree: ast.Module) -> int:
    """Number of times that an annotation says Any, alone or inside another type."""
    annotations = []
    for node in ast.walk(tree):
        match node:
            case ast.arg(annotation=found) | ast.AnnAssign(annotation=found) | ast.FunctionDef(returns=found):
                annotations.append(found)
    names = (part for annotation in annotations if annotation for part in ast.walk(annotation))
    return sum(isinstance(part, ast.Name) and part.id == "Any" for part in names)


def largest(sizes: dict[str, int], count: int) -> dict[str, int]:
    return dict(sorted(sizes.items(), key=lambda item: (-item[1], item[0]))[:count])


def measure(folder: Path) -> dict[str, Any]:
    """All measures of one package."""
    texts = {path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*.py"))}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    files = {name: text.count("\n") for name, text in texts.items()}
    spans = [(f"{name}: {function}", lines) for name, tree in trees.items() for function, lines in functions(tree)]
    classes = {
        f"{name}: {node.name}": attributes(node)
        for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    modules = imports(folder)
    return {
        "files": len(texts),
        "lines": sum(files.values()),
        "levels of rooms": levels(rooms(modules)),
        "levels of modules": levels(modules),
        "circles of rooms": circles(rooms(modules)),
        "circles of modules": circles(modules),
        f"files above {LONG_FILE} lines": sum(lines > LONG_FILE for lines in files.values()),
        "largest files": largest(files, 3),
        **{f"functions above {limit} lines": sum(lines > limit for _, lines in spans) for limit in LONG_FUNCTIONS},
        "longest functions": largest(dict(sorted(spans, key=itemgetter(1))), 5),
        "classes with the most attributes": largest(classes, 5),
        "fmt: skip": sum(text.count("# fmt: skip") for text in texts.values()),
        "Any in annotations": sum(map(untyped, trees.values())),
    }


def measure_commit(commit: str) -> dict[str, Any]:
    """All measures of our package as it was."""
    archive = subprocess.run(["git", "archive", commit, OURS.name], cwd=OURS.parent, check=True, capture_output=True)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as file:
            file.extractall(folder, filter="data")
        return measure(Path(folder) / OURS.name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=OURS)
    parser.add_argument("--before", help="an earlier commit of ours")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    before = {} if args.before is None else {"commit": args.before, "before": measure_commit(args.before)}
    keep(
        {
            "command": "make house",
            "date": time.strftime("%Y-%m-%d"),
            **before,
            "after": measure(args.folder),
        },
        args.out,
    )


if __name__ == "__main__":
    main()
