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
    """Images of one optimizer step."""
    accumulate: Count = 1
    """Parts that a process computes its images of one step in, to save memory."""
    opt: StrictStr = "adamw"
    """timm's name of the optimizer."""
    lr: NonNegative = 2e-3
    """Learning rate after warm-up."""
    lr_per: Count | None = None
    """The learning rate is for so many images a step, and scaled with batch_size. Default: it is not scaled."""
    weight_decay: NonNegative = 0.05
    sched: Literal["cosine", "constant"] = "cosine"
    """After warm-up."""
    warmup_epochs: Natural = 1
    """Epochs in which the learning rate rises from warmup_lr."""
    warmup_lr: NonNegative = 1e-5
    min_lr: NonNegative = 1e-5
    """At the end of the cosine."""
    clip_grad: NonNegative = 1.0
    """0: gradients are not clipped."""
    clip_mode: Literal["norm", "value", "agc"] = "norm"
    smoothing: Fraction01 = 0.1
    """Of the labels."""
    mixup: NonNegative = 0.0
    cutmix: NonNegative = 0.0
    auto_augment: StrictStr | None = None
    """timm's policy, such as rand-m9-mstd0.5-inc1."""
    crop_scale: Fraction01 = 0.7
    """Least area of a random crop, as a share of the image."""
    hflip: Fraction01 = 0.5
    color_jitter: NonNegative = 0.0
    reprob: Fraction01 = 0.0
    """Probability of random erasing."""
    repeated_aug: Count = 1
    """How often an image is in a batch, augmented in different ways (Hoffer et al., CVPR 2020)."""
    ema: Annotated[float, Field(ge=0, lt=1, allow_inf_nan=False), BeforeValidator(_no_switch)] = 0.0
    """Decay of the averaged weights, which are evaluated and kept; 0: none."""
    drop_rate: Fraction01 | None = None
    """Dropout before the classifier. Default: the network's."""
    distill: Literal["none", "soft", "hard"] = "none"
    """How a teacher's prediction counts: its distribution (Hinton et al., 2015), or its decision as a label (DeiT). A
    network with a second classifier learns it there."""
    distill_weight: Fraction01 = 0.5
    """Of the teacher's part of the loss."""
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False), BeforeValidator(_no_switch)] = 1.0
    """Of soft distillation."""
    precision: Literal["float32", "bf16", "fp16"] = "float32"
    grad_checkpointing: StrictBool = False
    """Less memory, more time; batch norms update their running statistics twice a step."""
    compile: StrictBool = False
    """torch.compile."""
    channels_last: StrictBool = True
    """Memory layout of convolutions."""
    workers: Natural = 0
    """Processes that read images, of each process that trains."""
    seed: Natural = 0
    """Of the weights where they are new, of the order of images and of every draw."""

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
        if "warmup_epochs" in values:
            return found
        usual = PRESETS[preset].get("warmup_epochs", TrainConfig.model_fields["warmup_epochs"].default)
        return found.model_copy(update={"warmup_epochs": min(usual, found.epochs // 2)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{field}: {first['msg'].removeprefix('Value error, ')}, got {first['input']!r}"
            if first["type"] != "conflict"
            else f"{field}: {first['msg']}"
        ) from error
