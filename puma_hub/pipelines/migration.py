"""``pipeline("prompt-migration")``: migrates banks, data sets and arrays with an adapter."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch

from puma_hub.adapter import PumaAdapter
from puma_hub.bank.reference import Reference
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.pipelines.array_inputs import as_array
from puma_hub.pipelines.batch_pipeline import BatchPipeline, Deferred, place_of, refuse_unknown, require_dtype

logger = logging.getLogger(__name__)


class PromptMigrationPipeline(BatchPipeline):
    """Maps prompts of an adapter's source LLM to its target LLM, as :meth:`puma_hub.PumaAdapter.migrate` does.

    A bank, or a data set with a bank's columns, gives a bank. An array or tensor ``(l, d)`` or ``(N, l, d)`` gives a
    float32 array with the same number of dimensions, and a list of arrays gives a list. An array does not record its
    training, so ``mean`` is needed. The kind of input does not change the result: with the same ``batch_size`` (4096 by
    default) the same prompts give the same bits.

    Args:
        model: repository or folder of an adapter, or a :class:`~puma_hub.PumaAdapter`.

    Raises:
        ConfigurationError: the model is not an adapter, or cannot have the given dtype.
        CheckpointError: the adapter is damaged.
        HubError: the adapter cannot be downloaded.
    """

    usual_batch_size = 4096

    def __init__(self, model: Deferred | PumaAdapter, *, device: Any = None, **kwargs: Any) -> None:
        if isinstance(model, Deferred):
            chosen = model.options()
            adapter: Any = PumaAdapter.from_pretrained(model.name, **chosen)
            device = place_of(adapter, device, chosen)
        elif isinstance(model, PumaAdapter):
            adapter = model
            require_dtype(adapter, kwargs.get("dtype"))
        else:
            raise ConfigurationError(
                "prompt-migration needs model=, the repository or folder of an adapter or a PumaAdapter, got "
                f"{type(model).__name__}"
            )
        super().__init__(model=adapter.eval(), device=device, **kwargs)

    def __call__(self, inputs: Any, *, batch_size: int | None = None, mean: Any = None, **options: Any) -> Any:
        """Migrate.

        Args:
            inputs: a bank or a data set with a bank's columns (for several sources a list of these, in the adapter's
                order); or an array, or a list, data set or generator of arrays. A data set records no LLM, so the
                adapter's source is assumed, with a warning and a note in the result's history.
            batch_size: the number of prompts in a batch.
            mean: see :func:`puma_hub.migrate`. Arrays need it; a bank has it in its provenance.

        Returns:
            A :class:`~puma_hub.PromptBank` for banks and data sets; float32 arrays for arrays.

        Raises:
            MismatchError: prompts or a bank have another LLM, size or length, or are extremely far from their mean.
            BankError: prompts are malformed, their mean is not known, or the result is not finite.
        """
        import datasets

        from puma_hub.bank import BankStatistics, PromptBank, Provenance

        size = self.size_of(batch_size)
        given = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
        if not given or not all(isinstance(part, (PromptBank, datasets.Dataset)) for part in given):
            return super().__call__(inputs, batch_size=size, rows=size, references=self._references(mean), **options)
        config: Any = self.model.config
        banks = []
        for number, part in enumerate(given):
            if isinstance(part, datasets.Dataset):  # it records no LLM
                spec = config.sources[min(number, len(config.sources) - 1)]
                logger.warning("input %d records no LLM; its prompts are assumed to be of %s", number, spec.model_id)
                details = {"model": "unknown, the data set records none; assumed to be the adapter's source"}
                part = PromptBank(part, Provenance(spec, config.prompt_length, details=details))
                part = part.with_provenance(statistics=BankStatistics.of_prompts(part.prompts))
            banks.append(part)
        return self.model.migrate(banks, batch_size=size, mean=mean)

    def _references(self, mean: Any) -> list[Reference] | None:
        """The mean and sensitivity to standardise arrays with; None if the adapter was not standardised.

        Raises:
            ConfigurationError: no mean was given.
        """
        from puma_hub.migration.means import WAYS, given_references

        adapter: Any = self.model
        if mean is None:
            if adapter.config.trained_on is None:
                return None
            raise ConfigurationError(f"an array does not record the training of its prompts; {WAYS}")
        return given_references(adapter, mean)

    def is_single(self, inputs: Any) -> bool:
        return isinstance(inputs, (np.ndarray, torch.Tensor))

    def _sanitize_parameters(
        self, rows: int | None = None, references: list[Reference] | None = None, **options: Any
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        refuse_unknown("prompt-migration", options)
        return {}, {} if rows is None else {"rows": rows, "references": references}, {}

    def preprocess(self, inputs: Any) -> np.ndarray:
        """Float32 ``(l, d)`` or ``(N, l, d)``."""
        config: Any = self.model.config
        shape = (config.prompt_length, config.source_size)
        array = as_array(inputs)
        if array.shape == (shape[0] * shape[1],):  # as in a bank's column
            array = array.reshape(shape)
        if array.ndim not in (2, 3) or array.shape[-2:] != shape:
            raise MismatchError(
                f"this adapter takes prompts {shape} or (users, {shape[0]}, {shape[1]}), got {array.shape}"
            )
        return array

    def _forward(self, arrays: list[np.ndarray], rows: int, references: list[Reference] | None) -> list[np.ndarray]:
        """Map the prompts of all arrays, ``rows`` at a time."""
        from puma_hub.adapter.mapping import map_prompts
        from puma_hub.migration.step import say_distances

        adapter: Any = self.model
        stacked = [array if array.ndim == 3 else array[None] for array in arrays]
        mapped, distances = map_prompts(adapter, np.concatenate(stacked), rows, references)
        say_distances(adapter, distances)
        parts = np.split(mapped, np.cumsum([len(part) for part in stacked])[:-1])
        return [part if array.ndim == 3 else part[0] for array, part in zip(arrays, parts)]

    def postprocess(self, output: np.ndarray) -> np.ndarray:
        return output
