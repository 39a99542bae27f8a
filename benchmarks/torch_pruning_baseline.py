"""What torch-pruning makes of the shipped ViT at a share of its MACs, without training, and how long it takes.

    python benchmarks/torch_pruning_baseline.py --out rows.json --timing timing.json

torch-pruning is given its best foot. Every mode tries the settings in `SETTINGS` and keeps the one with the lowest loss
on the calibration images. What torch-pruning 1.6.1 leaves to its user is done here by hand:

- It takes a ratio of channels, not a share of MACs, and a group that is wholly below a global threshold stays at its
  width. So the ratio rises in small steps of one pruner (its `iterative_steps`) until the MACs reach the share.
- timm's attention needs `num_heads`, `head_dim` and `attn_dim` set after a cut. Its softmax scale stays that of the
  source, which costs less accuracy than timm's new one; fused attention would compute its own, so it is off.
- Head pruning in several steps raises (global) or removes a head in every step (local), so heads go in one step first.
- `HessianImportance.accumulate_grad` keeps only the last sample; the score `hessian_mended` is the mean over all.
"""

import argparse
import copy
import statistics
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
import torch_pruning as tp
from record import origin, put
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from prune_realloc.checkpoints.load import load_model
from prune_realloc.data.batches import iterate
from prune_realloc.data.images import open_images
from prune_realloc.data.preprocessing import preprocessing
from prune_realloc.families import family_of
from prune_realloc.runtime.networks import model_identity

MODES = ("uniform", "bottleneck", "global", "isomorphic")
SCORES = ("l2", "taylor", "hessian", "hessian_mended")
CALIBRATION_IMAGES = 2048
HESSIAN_IMAGES = 256
"""The Hessian score needs a backward pass for every image."""
CHOICE_IMAGES = 1024
"""Calibration images whose loss chooses among the settings."""
MAX_STEP, MAX_RATIO = 0.04, 0.99
CLOSE = 0.002
"""A share this little above the target has reached it."""
SLACK = 0.02
"""A share up to this much above the target is preferred to one below it."""

Gradients = dict[str, Tensor]
"""Parameter name -> what torch-pruning shall read as its `.grad`."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One way to call torch-pruning; `stream` also cuts the embedding."""

    stream: bool = False
    dims: float = 1.0
    """Ratio of the head dimensions, relative to the ratio of everything else; 0 keeps them."""
    heads: float = 0.0
    """Share of the heads that go first."""
    normalizer: str | None = "mean"


_INSIDE = [(1.0, 0.0), (0.75, 0.0), (0.5, 0.0), (0.0, 0.0), (1.0, 0.25), (0.5, 0.25)]
_RANKED = [
    Setting(stream=stream, dims=dims, heads=heads, normalizer=normalizer)
    for normalizer in ("mean", None)
    for stream, dims, heads in [(True, 1.0, 0.0), *((False, *inside) for inside in _INSIDE)]
]
SETTINGS: dict[str, list[Setting]] = {
    "uniform": [Setting(stream=True, dims=dims) for dims in (1.0, 0.5, 0.0)],
    "bottleneck": [Setting(dims=d, heads=h) for d, h in [*_INSIDE, (0.0, 0.25), (0.0, 0.5)]],
    "global": _RANKED,
    "isomorphic": _RANKED,
}


@dataclass(kw_only=True)
class Candidate:
    """A pruned model, or the reason why there is none."""

    setting: Setting
    share: float = 0.0
    loss: float = float("inf")
    """On the calibration images that choose."""
    seconds: float = 0.0
    error: str | None = None
    model: nn.Module | None = None


class _Dial:
    """torch-pruning's ratio schedule, turned while it runs."""

    def __init__(self) -> None:
        self.ratio = 0.0

    def schedule(self, factor: float, steps: int) -> "_Dialled":
        return _Dialled(self, factor)


@dataclass(frozen=True)
class _Dialled:
    dial: _Dial
    factor: float

    def __getitem__(self, step: int) -> float:
        return self.factor * self.dial.ratio


def count_macs(model: nn.Module, example: Tensor) -> int:
    """Multiply-adds of one image; fused attention is counted only where it is off."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(example)
    return counter.get_total_flops() // 2


@torch.inference_mode()
def evaluate(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean loss in nats, and top-1 in per cent."""
    logits = torch.cat([model(batch) for batch in images.split(256)])
    return float(F.cross_entropy(logits, labels)), 100 * float((logits.argmax(1) == labels).double().mean())


def score_gradients(model: nn.Module, images: Tensor, labels: Tensor, score: str) -> Gradients:
    """What `score` reads from `.grad`; nothing for `l2`."""
    if score == "l2":
        return {}
    model = copy.deepcopy(model)
    if score == "taylor":
        for x, y in zip(images.split(256), labels.split(256), strict=True):
            (F.cross_entropy(model(x), y, reduction="sum") / len(labels)).backward()
        return {name: p.grad for name, p in model.named_parameters()}
    scorer = tp.importance.HessianImportance()
    squares: Gradients = {}
    images, labels = images[:HESSIAN_IMAGES], labels[:HESSIAN_IMAGES]
    for x, y in zip(images.split(64), labels.split(64), strict=True):
        for loss in F.cross_entropy(model(x), y, reduction="none"):
            model.zero_grad()
            loss.backward(retain_graph=True)
            scorer.accumulate_grad(model)
            if score == "hessian_mended":
                for name, p in model.named_parameters():
                    squares[name] = squares.get(name, 0) + p.grad**2 / len(labels)
    # without the mend: what the scorer itself fills in when it is first called
    return squares or {name: scorer._accu_grad[p] / scorer._counter[p] for name, p in model.named_parameters()}


def build_pruner(
    model: nn.Module,
    example: Tensor,
    *,
    score: str,
    ranked: bool,
    isomorphic: bool = False,
    setting: Setting,
    heads: float = 0.0,
    dial: _Dial | None = None,
    ratio: float = 1.0,
    ignored: Sequence[Any] = (),
) -> tp.pruner.BasePruner:
    """A pruner of a timm ViT with fresh dicts (torch-pruning shares its defaults); the classifier stays."""
    if score == "l2":
        importance = tp.importance.MagnitudeImportance(p=2, normalizer=setting.normalizer)
    else:
        kind = tp.importance.TaylorImportance if score == "taylor" else tp.importance.HessianImportance
        importance = kind(normalizer=setting.normalizer)
    fixed = [model.head, *ignored]
    if not setting.stream:
        fixed += [model.patch_embed, model.cls_token, model.pos_embed, *(block.mlp.fc2 for block in model.blocks)]
    qkv = tuple(block.attn.qkv for block in model.blocks)
    schedule = {"iterative_steps": 1000, "iterative_pruning_ratio_scheduler": dial.schedule} if dial else {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Unwrapped parameters detected")
        return tp.pruner.BasePruner(
            model,
            example,
            importance,
            pruning_ratio=ratio,
            global_pruning=ranked,
            isomorphic=isomorphic,
            pruning_ratio_dict={qkv: setting.dims} if setting.dims not in (0, 1) else None,
            ignored_layers=fixed,
            num_heads={block.attn.qkv: block.attn.num_heads for block in model.blocks},
            in_channel_groups={},
            out_channel_groups={},
            prune_head_dims=setting.dims > 0 and not heads,
            prune_num_heads=heads > 0,
            head_pruning_ratio=heads,
            **schedule,
        )


def sync_attention_(model: nn.Module, pruner: tp.pruner.BasePruner) -> None:
    """Tell timm's attention its new widths; its softmax scale stays the source's."""
    for block in model.blocks:
        attention = block.attn
        # 0: all heads fell below a global threshold, and torch-pruning left the block whole
        attention.num_heads = pruner.num_heads[attention.qkv] or attention.num_heads
        attention.attn_dim = attention.qkv.out_features // 3
        attention.head_dim = attention.attn_dim // attention.num_heads


def prune_in_steps(
    model: nn.Module,
    example: Tensor,
    gradients: Gradients,
    *,
    mode: str,
    score: str,
    setting: Setting,
    shares: Sequence[float],
) -> dict[float, Candidate]:
    """Target share -> the pruned model at or just above it where the steps allow, else the nearest."""
    started = time.perf_counter()
    whole = count_macs(model, example)
    small = copy.deepcopy(model)
    for name, p in small.named_parameters():
        p.grad = gradients[name].clone() if gradients else None
    ranked = mode in ("global", "isomorphic")
    if setting.heads:
        others = [block.mlp.fc1 for block in small.blocks]
        pruner = build_pruner(
            small, example, score=score, ranked=ranked, setting=setting, heads=setting.heads, ratio=0.01, ignored=others
        )
        pruner.step()
        sync_attention_(small, pruner)
    dial = _Dial()
    pruner = build_pruner(
        small, example, score=score, ranked=ranked, isomorphic=mode == "isomorphic", setting=setting, dial=dial
    )
    found: dict[float, Candidate] = {}
    last, share, slope = None, count_macs(small, example) / whole, 0.7
    for target in sorted(shares, reverse=True):
        while share > target + CLOSE and dial.ratio < MAX_RATIO:
            last = Candidate(setting=setting, share=share, model=copy.deepcopy(small))
            # there is no way back, and units of attention cost ten times those of the FFN, so a third of the way
            step = min(MAX_STEP, max(0.0005, 0.35 * (share - target) / slope))
            dial.ratio = min(MAX_RATIO, dial.ratio + step)
            pruner.step()
            sync_attention_(small, pruner)
            share = count_macs(small, example) / whole
            slope = max(0.3, (last.share - share) / step)
        best = Candidate(setting=setting, share=share, model=copy.deepcopy(small))
        if last and share < target and (last.share - target <= SLACK or last.share - target < target - share):
            best = copy.copy(last)
        best.seconds = time.perf_counter() - started
        found[target] = best
    return found


def search(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    gradients: Gradients,
    *,
    mode: str,
    score: str,
    shares: Sequence[float],
) -> dict[float, list[Candidate]]:
    """Target share -> a candidate for each of the mode's settings, the lowest calibration loss first.

    Candidates more than `SLACK` away from the target come last: theirs is another budget.
    """
    model = copy.deepcopy(model).eval()
    for block in model.blocks:
        block.attn.fused_attn = False
    found: dict[float, list[Candidate]] = {share: [] for share in shares}
    for setting in SETTINGS[mode]:
        try:
            by_share = prune_in_steps(
                model, images[:1], gradients, mode=mode, score=score, setting=setting, shares=shares
            )
        except Exception as error:  # a crash of torch-pruning is a result
            by_share = {s: Candidate(setting=setting, error=f"{type(error).__name__}: {error}") for s in shares}
        for share, candidate in by_share.items():
            if candidate.model is not None:
                candidate.model.zero_grad(set_to_none=True)
                candidate.loss = evaluate(candidate.model, images[:CHOICE_IMAGES], labels[:CHOICE_IMAGES])[0]
            found[share].append(candidate)
    for share, candidates in found.items():
        candidates.sort(key=lambda c, target=share: (abs(c.share - target) > SLACK, c.loss))
    return found


def prune_with_torch_pruning(
    model: nn.Module, images: Tensor, labels: Tensor, *, mode: str, score: str, keep_macs: float
) -> nn.Module:
    """A physically smaller copy of a timm ViT, as good as torch-pruning makes it at about `keep_macs` of the MACs.

    Args:
        images: calibration images, prepared; they score and choose among `SETTINGS`.
        mode: one of `MODES`.
        score: one of `SCORES`.

    Raises:
        RuntimeError: no setting of the mode ran.
    """
    gradients = score_gradients(model, images, labels, score)
    best = search(model, images, labels, gradients, mode=mode, score=score, shares=[keep_macs])[keep_macs][0]
    if best.model is None:
        raise RuntimeError(best.error)
    return best.model


def load_tensors(model: nn.Module, spec: str, split: str, samples: int | None = None) -> tuple[Tensor, Tensor]:
    source = open_images(spec, split=split)
    prepare = preprocessing(model, family_of(model).example_input(model)[1:], {})
    batches = list(iterate(source, prepare, samples=samples or source.count, batch_size=256, seed=0))
    return torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])


def describe(candidate: Candidate) -> dict[str, Any]:
    if candidate.error:
        return asdict(candidate.setting) | {"error": candidate.error}
    numbers = {"keep_macs": round(candidate.share, 4), "calibration_loss": round(candidate.loss, 4)}
    return asdict(candidate.setting) | numbers


def baseline_table(
    shares: Sequence[float] = (0.7, 0.5, 0.3),
    *,
    data: str = "demo",
    modes: Sequence[str] = MODES,
    scores: Sequence[str] = SCORES,
) -> list[dict[str, Any]]:
    """A row for each mode, score and share of the shipped ViT, calibrated on the shipped images, without training.

    `seconds` is the data pass and the pruning with the chosen setting; the others that were tried do not count.

    Args:
        data: test images, all of them: `demo` or a folder of IDX files.
    """
    model = load_model()
    images, labels = load_tensors(model, "demo", "train", CALIBRATION_IMAGES)
    test = load_tensors(model, data, "test")
    params = sum(p.numel() for p in model.parameters())
    rows = []
    for score in scores:
        started = time.perf_counter()
        gradients = score_gradients(model, images, labels, score)
        gradient_seconds = time.perf_counter() - started
        for mode in modes:
            found = search(model, images, labels, gradients, mode=mode, score=score, shares=shares)
            for share, candidates in found.items():
                row = {"mode": mode, "score": score, "requested": share}
                best = candidates[0]
                if best.model is None:
                    row["error"] = best.error
                else:
                    kept = sum(p.numel() for p in best.model.parameters())
                    row |= {
                        "keep_macs": round(best.share, 4),
                        "keep_params": round(kept / params, 4),
                        "top1": round(evaluate(best.model, *test)[1], 2),
                        "seconds": round(gradient_seconds + best.seconds, 1),
                        "setting": asdict(best.setting),
                    }
                row["tried"] = [describe(candidate) for candidate in candidates]
                rows.append(row)
                print(*(f"{key}={value}" for key, value in row.items() if key != "tried"), flush=True)
    return rows


def time_torch_pruning(name: str, img_size: int = 224, *, runs: int = 3) -> dict[str, dict[str, float]]:
    """`local` and `global` -> median seconds of each stage, bottleneck mode at half of the channels, L2 scores."""
    result = {}
    for scope in ("local", "global"):
        stages: dict[str, list[float]] = {"graph": [], "ranking": [], "pruning": []}
        for _ in range(runs):
            torch.manual_seed(0)
            model = timm.create_model(name, pretrained=False, img_size=img_size).eval()
            for block in model.blocks:
                block.attn.fused_attn = False
            example = torch.zeros(1, 3, img_size, img_size)
            whole = count_macs(model, example)
            marks = [time.perf_counter()]
            pruner = build_pruner(model, example, score="l2", ranked=scope == "global", setting=Setting(), ratio=0.5)
            marks.append(time.perf_counter())
            groups = list(pruner.step(interactive=True))
            marks.append(time.perf_counter())
            for group in groups:
                group.prune()
            sync_attention_(model, pruner)
            marks.append(time.perf_counter())
            for stage, begin, end in zip(stages, marks, marks[1:], strict=False):
                stages[stage].append(end - begin)
        result[scope] = {stage: round(statistics.median(times), 3) for stage, times in stages.items()}
        result[scope] |= {"keep_macs": round(count_macs(model, example) / whole, 4), "runs": runs}
        print(name, scope, result[scope], flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table of accuracies")
    parser.add_argument("--timing", type=Path, help="write the table of times")
    parser.add_argument("--data", default="demo", help="test images: demo, or a folder of IDX files")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=MODES)
    parser.add_argument("--scores", nargs="+", choices=SCORES, default=SCORES)
    parser.add_argument("--shares", nargs="+", type=float, default=(0.7, 0.5, 0.3))
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.out:
        rows = baseline_table(args.shares, data=args.data, modes=args.modes, scores=args.scores)
        record = origin(args.threads) | {"model": model_identity(load_model()), "test": args.data, "rows": rows}
        put(record, args.out)
    if args.timing:
        names = [f"deit_{size}_patch16_224" for size in ("tiny", "small", "base")]
        times = {name: time_torch_pruning(name) for name in names}
        times["vit_large_patch16_224"] = time_torch_pruning("vit_large_patch16_224", runs=1)
        put(origin(args.threads) | {"models": times}, args.timing)


if __name__ == "__main__":
    main()
