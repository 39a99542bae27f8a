"""What methods of self-supervised training call their networks, and what they train beside them."""

from __future__ import annotations

TEACHER, STUDENT = "teacher", "student"
"""The two networks of DINO, iBOT and DINOv2, of which the teacher is evaluated; distillation has such, too."""
BASE, MOMENTUM = "base_encoder", "momentum_encoder"
"""The two of MoCo-v3, of which the base is evaluated."""
NETWORKS = (TEACHER, BASE, STUDENT, MOMENTUM)
"""All of them, the one that is evaluated first."""
ENCODERS = ("backbone.", f"{BASE}.", f"{MOMENTUM}.")
"""Where the encoder lies beside what is trained with it, the first that is there."""

OWN_HEADS = r"(dino|ibot)_head"
"""DINOv2's heads, beside the encoder."""
PROJECTION = r"(head|fc)\.(mlp|last_layer\w*)\b"
"""A head that projects (DINO, iBOT), and no classifier."""
VIEWS = rf"({PROJECTION}|head\.\d+\b|{OWN_HEADS}\b)"
"""All heads that compare two views of an image; MoCo-v3's is a sequence."""
ASIDE = rf"{VIEWS}|(predictor|decoder_\w+|masked_embed|mask_token)\b"
"""What lies beside the encoder's own tensors, under its prefix or without one; of MAE the decoder."""
FIRST_PARTS = rf".*{MOMENTUM}.*|decoder\w*|predictor|projector|{OWN_HEADS}|queue(_ptr)?|discriminator"
"""First parts of names, in small letters, that belong to what such training needs beside the network."""
