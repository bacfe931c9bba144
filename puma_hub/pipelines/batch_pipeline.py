"""The base class of our pipelines: loading with clear errors, and inputs one at a time, in batches or streamed."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from transformers.pipelines import Pipeline

from puma_hub.errors import ConfigurationError, PumaHubError

# Arguments of transformers.pipeline that are not passed to a model.
_NO_OPTIONS = ("trust_remote_code", "code_revision", "_from_pipeline", "_commit_hash")

# It is annotated for pipelines that take and return one dict of tensors.
_Pipeline: Any = Pipeline


class Deferred:
    """The name of a model, which the pipeline's class loads later.

    ``transformers.pipeline`` would hide loading errors, try other classes and dtypes, and accept formats other than
    safetensors.
    """

    config = SimpleNamespace(_commit_hash=None)  # read by transformers before 5.24
    device = None

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        self.name = name
        self._options = options

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **options: Any) -> Deferred:
        """Store the arguments for loading the model."""
        return cls(os.fspath(name), options)

    def options(self) -> dict[str, Any]:
        """The arguments of ``from_pretrained`` that were given.

        Raises:
            ConfigurationError: ``trust_remote_code`` is set.
        """
        if self._options.get("trust_remote_code"):
            raise ConfigurationError("puma_hub runs no code of repositories; leave out trust_remote_code")
        return {key: value for key, value in self._options.items() if key not in _NO_OPTIONS and value is not None}


def place_of(model: Any, device: Any, options: Mapping[str, Any]) -> Any:
    """The device of a pipeline: the given one, or the single device that ``device_map`` chose."""
    alone = options.get("device_map") is not None and getattr(model, "hf_device_map", None) is None
    return model.device if device is None and alone else device


def require_dtype(model: Any, dtype: Any) -> None:
    """Check that ``dtype`` is that of a model in memory.

    Raises:
        ConfigurationError: the dtypes differ.
    """
    wanted = getattr(torch, dtype, dtype) if isinstance(dtype, str) else dtype
    if wanted not in (None, "auto", model.dtype):
        raise ConfigurationError(
            f"the model was given in {model.dtype}, but dtype={dtype}; load the model in that dtype, or give its name"
        )


def refuse_unknown(task: str, options: Mapping[str, Any]) -> None:
    """Check that a pipeline has no unknown arguments.

    Raises:
        ConfigurationError: it has some.
    """
    if options:
        raise ConfigurationError(f"the pipeline {task} has no argument {', '.join(options)}; see docs/pipelines.md")


class BatchPipeline(_Pipeline):
    """A pipeline whose ``_forward`` takes a list of prepared inputs and returns one result for each.

    One input gives one result. A list, tuple or ``datasets.Dataset`` gives a list of results. A generator or any other
    iterable gives an iterator over results, which reads a batch at a time.
    """

    _load_processor = False
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False
    usual_batch_size: ClassVar[int] = 1

    def is_single(self, inputs: Any) -> bool:
        """Whether ``inputs`` is one input."""
        raise NotImplementedError  # abstract: each pipeline has its own kinds of input; transformers' base is no ABC

    def admit(self, item: Any, **forward: Any) -> None:
        """Check a prepared input before it joins a batch for ``_forward``, if the check is cheap."""

    def __call__(
        self, inputs: Any, *, batch_size: int | None = None, num_workers: int | None = None, **options: Any
    ) -> Any:
        """Run the pipeline. ``num_workers`` is accepted for compatibility and has no effect.

        Raises:
            ConfigurationError: the batch size is not a whole number of at least 1, or the inputs cannot be iterated.
        """
        from datasets import Dataset

        size = self.size_of(batch_size)
        ours = (self._preprocess_params, self._forward_params, self._postprocess_params)
        preprocess, forward, postprocess = (
            {**mine, **theirs} for mine, theirs in zip(ours, self._sanitize_parameters(**options))
        )
        if self.is_single(inputs):
            (output,) = self.forward([self.preprocess(inputs, **preprocess)], **forward)
            return self.postprocess(output, **postprocess)
        results = self._results(_each(inputs), size, preprocess, forward, postprocess)
        return list(results) if isinstance(inputs, (list, tuple, Dataset)) else results

    def size_of(self, batch_size: int | None) -> int:
        """The batch size: that of the call, or of the pipeline, or the default.

        Raises:
            ConfigurationError: it is not a whole number of at least 1.
        """
        size = next(s for s in (batch_size, self._batch_size, self.usual_batch_size) if s is not None)
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise ConfigurationError(f"batch_size must be a whole number of at least 1, got {size!r}")
        return size

    def _results(
        self,
        inputs: Iterable[Any],
        batch_size: int,
        preprocess: dict[str, Any],
        forward: dict[str, Any],
        postprocess: dict[str, Any],
    ) -> Iterator[Any]:
        remaining = iter(enumerate(inputs))
        while batch := list(islice(remaining, batch_size)):
            prepared = []
            for position, item in batch:
                with _named(position):
                    prepared.append(self.preprocess(item, **preprocess))
                    self.admit(prepared[-1], **forward)
            try:
                outputs = self.forward(prepared, **forward)
            except PumaHubError:
                for (position, _), one in zip(batch, prepared):  # which input is wrong
                    with _named(position):
                        self.forward([one], **forward)
                raise
            yield from (self.postprocess(output, **postprocess) for output in outputs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], **kwargs: Any) -> None:
        """Not supported.

        Raises:
            ConfigurationError: always. A saved pipeline could only be loaded by running code from its folder.
        """
        raise ConfigurationError(
            "a pipeline cannot be saved, but its parts can: use save_pretrained or push_to_hub of the model, the bank "
            "and the adapter"
        )

    def push_to_hub(self, *args: Any, **kwargs: Any) -> Any:
        """Not supported, like :meth:`save_pretrained`."""
        self.save_pretrained("")


@contextmanager
def _named(position: int) -> Iterator[None]:
    """Add the position of the input to errors."""
    try:
        yield
    except PumaHubError as error:
        raise type(error)(f"input {position}: {error}") from error


def _each(inputs: Any) -> Iterable[Any]:
    if isinstance(inputs, torch.utils.data.Dataset) and hasattr(inputs, "__len__"):
        return (inputs[number] for number in range(len(inputs)))  # such as KeyDataset, which has no iterator
    if not isinstance(inputs, Iterable) or isinstance(inputs, (str, bytes, Mapping)):
        raise ConfigurationError(
            f"a pipeline takes an input, a list of inputs, a data set or a generator, got {type(inputs).__name__}"
        )
    return inputs
