"""The trainers' defaults for arguments that are None."""

from __future__ import annotations

from typing import Any

VALIDATION_SHARE = 0.1
PROMPT_DEFAULTS: dict[str, dict[str, Any]] = {
    # Our method; learning rates are in units of the LLM's embedding RMS.
    "shared": {
        "num_train_epochs": 3,
        "learning_rate": 1e-2,
        "base_learning_rate": 5e-2,
        "head_learning_rate": 3e-3,
        "per_device_train_batch_size": 64,
        "offset_penalty": 5e-2,
    },
    # The paper's hyperparameters; learning rates are in the LLM's own units.
    "independent": {
        "num_train_epochs": 15,
        "learning_rate": 5e-4,
        "head_learning_rate": 3e-3,
        "per_device_train_batch_size": 32,
        "offset_penalty": 0.0,
    },
}
# As shared, at higher rates: with less training, predictions depend too little on the prompt. Offsets are solved for
# anew, so they may overfit before, and no rows are kept to choose an epoch by.
PROMPT_DEFAULTS["posterior"] = PROMPT_DEFAULTS["shared"] | {
    "learning_rate": 2e-2,
    "base_learning_rate": 1e-1,
    "head_learning_rate": 6e-3,
    "validation_share": 0.0,
}
# Keys: what the adapter learns from. With few users, base and head have only a few dozen steps to fit the new LLM, so
# their rates are high.
ADAPTER_DEFAULTS: dict[str, dict[str, Any]] = {
    "labels": {
        "start_rows": 0,
        "num_train_epochs": 4,
        "learning_rate": 2e-4,
        "base_learning_rate": 0.1,
        "head_learning_rate": 1e-2,
        "per_device_train_batch_size": 32,
        "offset_penalty": 0.03,
    },
    # Predictions are less noisy than labels, so the adapter can be solved for. Epochs, if any, only refine it.
    "source predictions": {
        "start_rows": 2048,
        "num_train_epochs": 0,
        "learning_rate": 1e-4,
        "base_learning_rate": 2e-2,
        "head_learning_rate": 1e-3,
        "per_device_train_batch_size": 32,
        "offset_penalty": 0.01,
    },
    # For a network without a linear branch: more and smaller batches than for labels.
    "source predictions, no start": {
        "start_rows": 0,
        "num_train_epochs": 4,
        "learning_rate": 2e-4,
        "base_learning_rate": 0.2,
        "head_learning_rate": 3e-3,
        "per_device_train_batch_size": 16,
        "offset_penalty": 0.03,
    },
}
