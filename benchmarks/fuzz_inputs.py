"""Damage checkpoints, configurations, recipes and pictures, and see that the command line holds.

    python benchmarks/fuzz_inputs.py --out docs/fuzz_inputs.json
    python benchmarks/fuzz_inputs.py --replay "checkpoint 17" --keep /tmp/case

Every case must end with exit code 0 or 2, an error in one line, no traceback, no code of the file executed, no other
machine asked, nothing half-written, and no new file where the exit code is 2. A case follows from the seed and its
number alone; `--keep` leaves the input there, `--replay` shows what one case prints. Most run one after the other in
processes that are forked off a warm one, each with bounded memory and time; every `--apart`-th in one of its own.
"""

import argparse
import collections
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import get_context
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}

import torch
from fuzz_cases import Case, Sound, checkpoint_case, image_case
from fuzz_runs import SECONDS, Outcome, files_of, limit_memory, problems, run_apart, run_here
from record import keep, origin

CASES: dict[str, Callable[[Sound, Path, int, int], Case]] = {"checkpoint": checkpoint_case, "image": image_case}
CHUNK = 25
"""Cases of one forked process."""
SLOW = 10
"""Seconds from which a case is named as slow."""

Result = dict[str, Any]


def run_case(sound: Sound, folder: Path, seed: int, name: str, apart: bool) -> Result:
    """One case from its input to the judgement."""
    kind, number = name.split()
    case = CASES[kind](sound, folder, seed, int(number))
    before = files_of(case.folder)
    outcome = (run_apart if apart else run_here)(case)
    return _result(case, outcome, problems(case, outcome, before)) | {"apart": apart}


def _result(case: Case, outcome: Outcome, found: Sequence[str]) -> Result:
    said = [line for line in outcome.stderr.splitlines() if line.startswith("prune-realloc:")]
    return {
        "case": case.name,
        "what": case.what,
        "verb": case.args[0],
        "code": outcome.code,
        "seconds": round(outcome.seconds, 2),
        "problems": list(found),
        "said": " ".join(said)[:300],
    }


def forked(sound: Sound, work: Path, seed: int, names: Sequence[str], apart: int) -> Iterator[Result]:
    """The results of some cases, in a process of their own; one in which it dies is a failure, and the rest go on."""
    waiting = list(names)
    while waiting:
        receiver, sender = get_context("fork").Pipe(duplex=False)
        process = get_context("fork").Process(target=_work, args=(sound, work, seed, waiting, apart, sender))
        process.start()
        sender.close()
        while waiting:
            alive = receiver.poll(3 * SECONDS)
            try:
                result = receiver.recv() if alive else None
            except EOFError:
                result = None
            if result is None:
                break
            waiting.pop(0)
            yield result
        if waiting:
            process.kill()
        process.join()
        if waiting:
            code = int(process.exitcode or 0)
            yield _ended(waiting.pop(0), code, 3.0 * SECONDS, f"the process ended with {code}")


def _ended(name: str, code: int, seconds: float, problem: str) -> Result:
    """The result of a case that came to none."""
    common = {"case": name, "what": ("?",), "verb": "?", "code": code, "seconds": seconds}
    return common | {"problems": [problem], "said": "", "apart": False}


def _work(sound: Sound, work: Path, seed: int, names: Sequence[str], apart: int, sender: Any) -> None:
    limit_memory()
    for name in names:
        folder = work / name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            result = run_case(sound, folder, seed, name, apart=bool(apart) and int(name.split()[1]) % apart == 1)
        except Exception as error:  # a mistake of this script, which counts as a failure too
            result = _ended(name, 0, 0.0, f"this script failed: {error!r}"[:200])
        if not result["problems"]:
            shutil.rmtree(folder, ignore_errors=True)
        sender.send(result)


def summary(results: Sequence[Result]) -> Result:
    """Counts, every failure, and what was slow."""
    failed = [result for result in results if result["problems"]]
    kinds = collections.Counter(problem for result in failed for problem in result["problems"])
    slow = sorted((r for r in results if r["seconds"] >= SLOW), key=lambda r: -r["seconds"])
    return {
        "cases": dict(collections.Counter(result["case"].split()[0] for result in results)),
        "in a process of their own": sum(result["apart"] for result in results),
        "verbs": dict(collections.Counter(result["verb"] for result in results).most_common()),
        "exit codes": {str(code): n for code, n in sorted(collections.Counter(r["code"] for r in results).items())},
        "damaged": dict(collections.Counter(result["what"][0] for result in results).most_common()),
        "slow": [{key: result[key] for key in ("case", "what", "seconds")} for result in slow],
        "failures": len(failed),
        "kinds of failures": dict(kinds.most_common()),
        "failed": [
            {key: result[key] for key in ("case", "what", "verb", "code", "problems", "said")} for result in failed
        ],
    }


def replay(name: str, seed: int, folder: Path) -> None:
    """Make one case again and show all that it prints, in a process of its own."""
    kind, number = name.split()
    case = CASES[kind](Sound(folder / "sound"), folder / "case", seed, int(number))
    before = files_of(case.folder)
    print(*case.what, sep=", ")
    print("prune-realloc", *case.args)
    outcome = run_apart(case)
    print(outcome.stdout, outcome.stderr, f"exit code {outcome.code}", *problems(case, outcome, before), sep="\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=2000, help="damaged checkpoints, configurations and recipes")
    parser.add_argument("--images", type=int, default=500, help="damaged pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--apart", type=int, default=100, help="every so many-th case in a process of its own; 0: none")
    parser.add_argument("--replay", help="show one case, such as 'checkpoint 17'")
    parser.add_argument("--keep", type=Path, help="leave the inputs of failures, or of the replay, in this folder")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        work = args.keep or Path(scratch) / "work"
        if args.replay:
            replay(args.replay, args.seed, work)
            return
        started = time.perf_counter()
        sound, results = Sound(Path(scratch) / "sound"), []
        _warm_up(sound, Path(scratch))
        names = [*(f"checkpoint {n}" for n in range(args.checkpoints)), *(f"image {n}" for n in range(args.images))]
        for first in range(0, len(names), CHUNK):
            results += forked(sound, work, args.seed, names[first : first + CHUNK], args.apart)
            bad = sum(bool(result["problems"]) for result in results)
            print(f"{len(results)} of {len(names)}, {bad} failed", file=sys.stderr)
        counts = f"--checkpoints {args.checkpoints} --images {args.images} --seed {args.seed}"
        record = {"command": f"python benchmarks/fuzz_inputs.py {counts}", "seed": args.seed} | summary(results)
        record |= {"minutes": round((time.perf_counter() - started) / 60, 1)}
        keep(record | origin(1, ("torch", "timm", "pillow", "safetensors")), args.out)
        if record["failures"]:
            sys.exit(1)


def _warm_up(sound: Sound, folder: Path) -> None:
    """Imports what the cases need, so that the forked processes have it."""
    for verb in ("analyze", "eval"):
        data = (
            ("--data", str(sound.pictures)) if verb == "eval" else ("--scorer", "magnitude", "-o", str(folder / "warm"))
        )
        outcome = run_here(Case("warm up", (), (verb, str(sound.folders["ours"]), *data), folder))
        assert outcome.code == 0, outcome.stderr


if __name__ == "__main__":
    main()
