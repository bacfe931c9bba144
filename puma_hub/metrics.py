"""Metrics as ``evaluate.Metric`` classes that need no network: ``RMSE``, ``MAE``, ``UserAUC``."""

from __future__ import annotations

from typing import Any, ClassVar

import datasets
import evaluate
import numpy as np

from puma_hub.errors import ConfigurationError
from puma_hub.tasks.scores import mae, rmse, user_auc


class _Offline(evaluate.Metric):
    """Keeps predictions in memory and refuses empty or non-finite input."""

    _summary = ""
    _extra: ClassVar[dict[str, datasets.Value]] = {}

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(keep_in_memory=True, **kwargs)

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Value("float32"), "references": datasets.Value("float32"), **self._extra}
        return evaluate.MetricInfo(
            description=self._summary,
            citation="",
            inputs_description="predictions and references: one number a row.",
            features=datasets.Features(features),
        )

    def compute(self, **kwargs: Any) -> dict[str, float]:
        """Compute the metric from what was given or added before."""
        predictions = kwargs.get("predictions")
        given = len(predictions) if predictions is not None else len(self)
        if not given:
            raise ConfigurationError(f"{type(self).__name__} needs at least one prediction, got none")
        return super().compute(**kwargs)


def _finite(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray]:
    arrays = np.asarray(predictions, np.float64), np.asarray(references, np.float64)
    for name, array in zip(("predictions", "references"), arrays):
        if not np.isfinite(array).all():
            raise ConfigurationError(f"{int((~np.isfinite(array)).sum())} of {array.size} {name} are NaN or infinite")
    return arrays


class RMSE(_Offline):
    """Root mean squared error: ``compute(predictions=..., references=...) -> {"rmse": float}``."""

    _summary = "Root mean squared error."

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"rmse": rmse(*_finite(predictions, references))}


class MAE(_Offline):
    """Mean absolute error: ``compute(predictions=..., references=...) -> {"mae": float}``."""

    _summary = "Mean absolute error."

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"mae": mae(*_finite(predictions, references))}


class UserAUC(_Offline):
    """AUC inside each user, averaged over users with both classes (the paper's uAUC).

    ``compute(predictions=..., references=..., user_ids=...) -> {"user_auc": float, "users": int}``.
    """

    _summary = "Area under the ROC curve inside each user, averaged over users."
    _extra: ClassVar[dict[str, datasets.Value]] = {"user_ids": datasets.Value("string")}

    def _compute(self, predictions: Any, references: Any, user_ids: Any) -> dict[str, float]:
        value, users = user_auc(*_finite(predictions, references), list(user_ids))
        return {"user_auc": value, "users": users}
