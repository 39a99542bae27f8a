"""How a network is trained: every value, its meaning, and three presets. No torch here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictStr, ValidationError

from prune_realloc.core.errors import InputError
from prune_realloc.recipe.fields import Conflict, Count, Natural, Part, unknown


def _no_switch(value: Any) -> Any:
    """YAML's yes and no are no numbers; text is (1e-3 is text in YAML 1.1)."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False), BeforeValidator(_no_switch)]
Fraction01 = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False), BeforeValidator(_no_switch)]


class TrainConfig(Part):
    """One training run. Batch sizes and steps count images of all processes together."""

    epochs: Count = 10
    """Passes over the training images."""
    batch_size: Count = 128
    """Images of one optimizer step, over all processes."""
    accumulate: Count = 1
    """Parts in which a process computes its images of one step, to save memory."""
    opt: StrictStr = "adamw"
    """timm's name of the optimizer."""
    lr: NonNegative = 2e-3
    """Learning rate after the warm-up."""
    lr_per: Count | None = None
    """Images a step for which `lr` is meant; it is scaled to batch_size. Default: it is not scaled."""
    weight_decay: NonNegative = 0.05
    """Weight decay of the optimizer; timm leaves biases and norms out."""
    sched: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on after the warm-up, set anew for every step."""
    warmup_epochs: Natural = 1
    """Epochs in which the learning rate rises from warmup_lr to lr."""
    warmup_lr: NonNegative = 1e-5
    """Learning rate at the start of the warm-up."""
    min_lr: NonNegative = 1e-5
    """Learning rate at the end of the cosine."""
    clip_grad: NonNegative = 1.0
    """Bound on the gradients, in the sense of clip_mode; 0: they are not clipped."""
    clip_mode: Literal["norm", "value", "agc"] = "norm"
    """What clip_grad bounds: the norm of all gradients, each of their values, or the norm of each unit's gradient as a
    share of its weights' norm (agc, adaptive gradient clipping)."""
    smoothing: Fraction01 = 0.1
    """Share of a label that is spread over all classes (label smoothing)."""
    mixup: NonNegative = 0.0
    """Alpha of mixup, which blends images in pairs; 0: none are blended."""
    cutmix: NonNegative = 0.0
    """Alpha of cutmix, which pastes a part of one image into another; 0: none are pasted."""
    auto_augment: StrictStr | None = None
    """timm's policy of augmentation, such as rand-m9-mstd0.5-inc1. Default: none."""
    crop_scale: Fraction01 = 0.7
    """Least area of a random crop, as a share of the image."""
    hflip: Fraction01 = 0.5
    """Probability that an image is mirrored; 0 where left and right are not alike, as for digits."""
    color_jitter: NonNegative = 0.0
    """How far brightness, contrast and saturation vary, as a share; 0: not at all."""
    reprob: Fraction01 = 0.0
    """Probability that a random rectangle of an image is erased."""
    repeated_aug: Count = 1
    """How often an image is in a batch, augmented in different ways (Hoffer et al., CVPR 2020)."""
    ema: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), BeforeValidator(_no_switch)] = 0.0
    """Decay of the averaged weights, which are evaluated and kept, smaller at first; 0: there are none."""
    drop_rate: Fraction01 | None = None
    """Dropout before the classifier. Default: the network's."""
    distill: Literal["none", "soft", "hard"] = "none"
    """How a teacher's prediction counts: its distribution (Hinton et al., 2015), or its decision as a label (DeiT). A
    network with a second classifier learns it there."""
    distill_weight: Fraction01 = 0.5
    """Weight of the teacher's part of the loss; the labels' part has the rest."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_no_switch)] = 1.0
    """What both networks' logits are divided by in soft distillation."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    """Numbers that the network computes in; weights are float32. fp16 needs a GPU."""
    grad_checkpointing: StrictBool = False
    """Compute activations twice: less memory, more time; batch norms update their running statistics twice a step."""
    compile: StrictBool = False
    """Compile the network with torch.compile."""
    channels_last: StrictBool = True
    """Keep images and convolutions in channels-last memory layout."""
    workers: Natural = 0
    """Processes that read images, for each process that trains."""
    seed: Natural = 0
    """Seed of the weights where they are new, of the order of images and of every draw."""

    def _conflicts(self) -> Iterator[Conflict]:
        if (self.mixup or self.cutmix) and self.batch_size % 2:
            yield Conflict(("batch_size",), f"{self.batch_size} is odd; mixup and cutmix pair the images of a batch")
        if self.warmup_epochs >= self.epochs and self.warmup_epochs:
            yield Conflict(("warmup_epochs",), f"{self.warmup_epochs} leaves nothing of {self.epochs} epochs; lower it")


PRESETS: dict[str, dict[str, Any]] = {
    "quick": {},
    "paper": {
        "epochs": 300,
        "batch_size": 2048,
        "lr": 1e-3,
        "lr_per": 512,
        "weight_decay": 0.025,
        "warmup_epochs": 5,
        "warmup_lr": 1e-6,
        "clip_grad": 0.02,
        "clip_mode": "agc",
        "mixup": 0.8,
        "cutmix": 1.0,
        "auto_augment": "rand-m9-mstd0.5-inc1",
        "crop_scale": 0.08,
        "color_jitter": 0.4,
        "reprob": 0.25,
        "repeated_aug": 3,
        "ema": 0.99996,
    },
    "recover": {
        "epochs": 3,
        "batch_size": 128,
        "lr": 5e-4,
        "weight_decay": 0.0,
        "warmup_epochs": 0,
        "smoothing": 0.0,
        "distill": "soft",
        "distill_weight": 0.9,
    },
}
"""quick: a small network on small images; paper: EfficientViT's (Liu et al., CVPR 2023, section 4.1); recover: after
pruning, with the source as teacher."""


def train_config(preset: str = "quick", /, **values: Any) -> TrainConfig:
    """A preset with `values` on top; its warm-up takes half of the epochs at most.

    Raises:
        InputError: the preset or a field is unknown, or a value is wrong.
    """
    if preset not in PRESETS:
        raise InputError(f"preset: {unknown('value', preset, PRESETS)}")
    if "preset" in values:
        raise InputError("preset is no setting; give it by itself (--preset)")
    for name in values:
        if name not in TrainConfig.model_fields:
            raise InputError(f"{unknown('setting', name, TrainConfig.model_fields)}")
    try:
        found = TrainConfig.model_validate(PRESETS[preset] | {"warmup_epochs": 0} | values)
    except ValidationError as error:
        raise InputError(_first_message(error)) from error
    if "warmup_epochs" in values:
        return found
    usual = PRESETS[preset].get("warmup_epochs", TrainConfig.model_fields["warmup_epochs"].default)
    return found.model_copy(update={"warmup_epochs": min(usual, found.epochs // 2)})


def _first_message(error: ValidationError) -> str:
    """Field, what is wrong with it, and its value where the message does not say it."""
    first = error.errors(include_url=False)[0]
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "conflict":
        return f"{field}: {first['msg']}"
    return f"{field}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}"
