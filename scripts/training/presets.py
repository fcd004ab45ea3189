"""Recipes by name: options that belong together, each of which the command line may override."""

from __future__ import annotations

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # He et al. (2015), section 4.2: 64,000 steps of 128 images.
    "resnet20": {
        "dataset": "cifar10", "model": "resnet20", "epochs": 182, "batch_size": 128,
        "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": False, "weight_decay": 1e-4,
        "schedule": "step", "augment": ("flip", "crop"),
    },
    # The recipe by which ResNet-18 is trained most often: 200 epochs of SGD, a half cosine.
    "resnet18": {
        "dataset": "cifar10", "model": "resnet18", "epochs": 200, "batch_size": 128,
        "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4,
        "schedule": "cosine", "augment": ("flip", "crop"), "channels_last": True, "amp": "auto",
    },
    # Zagoruyko and Komodakis, "Wide Residual Networks" (2016), section 4, with a half cosine.
    "wrn28_10": {
        "dataset": "cifar10", "model": "wrn28_10", "epochs": 200, "batch_size": 128,
        "optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4,
        "schedule": "cosine", "augment": ("flip", "crop"), "channels_last": True, "amp": "auto",
    },
    # Jordan (2024), arXiv:2404.00498, with the optimizer of Jordan et al., "Muon" (2024).
    "air94": {
        "dataset": "cifar10", "model": "air94", "epochs": 8, "batch_size": 2000,
        "optimizer": "muon", "lr": 0.24, "momentum": 0.6, "weight_decay": 0.0,
        "normalize_weights": True, "muon_head": False, "schedule": "linear",
        "label_smoothing": 0.2, "augment": ("altflip", "crop"), "padding": 2, "tta": True,
        "holdout": False, "channels_last": True, "amp": "auto", "compile": True,
    },
}  # fmt: skip
# Jordan (2024), sections 3 and 4: SGD with Nesterov's momentum, and biases that learn 64 times as
# fast. The learning rates there are for a sum over 1,024 images, times 1 + 1 / (1 - 0.85).
PRESETS["air95"] = {
    "dataset": "cifar10", "model": "air95", "epochs": 15, "batch_size": 1024,
    "optimizer": "sgd", "lr": 1.3, "momentum": 0.85, "nesterov": True, "weight_decay": 1.5e-3,
    "bias_lr": 64.0, "schedule": "linear", "warmup": 3.5, "average": "lookahead",
    "label_smoothing": 0.2, "augment": ("altflip", "crop"), "padding": 2, "tta": True,
    "holdout": False, "channels_last": True, "amp": "auto", "compile": True,
}  # fmt: skip
PRESETS["air96"] = PRESETS["air95"] | {
    "model": "air96", "epochs": 37, "lr": 1.17, "weight_decay": 1.3e-3, "warmup": 3.7,
    "augment": ("altflip", "crop", "cutout"), "padding": 4,
}  # fmt: skip
# 300 seconds on two cores: the same, with smaller steps, on small images first, as the newest
# records have it.
PRESETS["cpu5m"] = PRESETS["air94"] | {
    "model": "air_tiny", "batch_size": 500, "lr": 0.12, "budget": 300.0,
    "resolutions": (20, 26, 32), "whitening_bias": False,
}  # fmt: skip
