"""Loading a causal LM of which only the input embeddings have weights, to make the inputs of another engine's model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from puma_hub.errors import PumaHubError, StorageError, UnsupportedModelError
from puma_hub.hub.failures import hub_errors
from puma_hub.hub.naming import is_hub_id
from puma_hub.scorer.loading import clear_errors, load_tokenizer
from puma_hub.storage import read_json

_WEIGHTS = "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"


def load_embeddings_only(
    model_id_or_dir: str, *, dtype: str | torch.dtype = "auto", revision: str | None = None, token: Any = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A model whose input embeddings are loaded on the CPU, and its tokenizer. All other weights are on ``meta``.

    Of a repository with several weight files only the one with the embeddings is downloaded.

    Args:
        dtype: of the embeddings; by default the one that the model's config names.

    Raises:
        StorageError: config, tokenizer or embeddings cannot be read.
        UnsupportedModelError: the model needs code from its repository.
        HubError: the repository cannot be read.
    """
    from accelerate import init_empty_weights

    folder, source = Path(model_id_or_dir), {"revision": revision, "token": token}
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise StorageError(f"{str(folder)!r} holds no model (config.json missing); give a model's folder or Hub id")
    tokenizer = load_tokenizer(model_id_or_dir, **source)
    with clear_errors(model_id_or_dir):
        config = AutoConfig.from_pretrained(model_id_or_dir, trust_remote_code=False, **source)
        # Buffers, such as the factor of scaled embeddings, are computed and have no file.
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, dtype=_dtype(config, dtype), trust_remote_code=False)
    embeddings: Any = model.get_input_embeddings()
    if getattr(embeddings, "weight", None) is None:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no single matrix of input embeddings; choose a text model"
        )
    names = [
        f"{name}.weight"
        for layer in (embeddings, model.get_output_embeddings() if config.tie_word_embeddings else None)
        for name, module in model.named_modules()
        if module is layer
    ]
    with _reading(model_id_or_dir):
        weight = _weight(_files(model_id_or_dir, names, source), names, tuple(embeddings.weight.shape), model_id_or_dir)
    embeddings.weight = torch.nn.Parameter(weight.to(model.dtype), requires_grad=False)
    return model.eval(), tokenizer


def _dtype(config: Any, dtype: str | torch.dtype) -> torch.dtype:
    wanted = dtype if dtype != "auto" else (config.get_text_config().dtype or config.dtype or torch.float32)
    if isinstance(wanted, torch.dtype):
        return wanted
    found = getattr(torch, str(wanted).removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise UnsupportedModelError(f"dtype must be float32, bfloat16 or float16, got {wanted!r}")
    return found


@contextmanager
def _reading(where: str) -> Iterator[None]:
    try:
        yield
    except PumaHubError:
        raise
    except (OSError, SafetensorError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StorageError(f"cannot read the input embeddings of {where!r}: {reason}; download it again") from error


def _files(where: str, names: Sequence[str], source: dict[str, Any]) -> list[Path]:
    """The weight files that hold the embeddings, by the index if there is one."""
    index = _file(where, _INDEX, source)
    if index is None:
        whole = _file(where, _WEIGHTS, source)
        if whole is None:
            raise StorageError(
                f"{where!r} has no {_WEIGHTS}; only safetensors are read: save the model with save_pretrained"
            )
        return [whole]
    holding: dict[str, str] = read_json(index)["weight_map"]
    key = _key(list(holding), names)
    if key is None:
        raise _missing(where, names)
    found = _file(where, holding[key], source)
    if found is None:
        raise StorageError(f"{where!r} lacks {holding[key]!r}, which its index names; download it again")
    return [found]


def _file(where: str, name: str, source: dict[str, Any]) -> Path | None:
    """The path of a file of a folder or repository; None if there is none."""
    if os.path.isdir(where):
        path = Path(where, name)
        return path if path.is_file() else None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    if not is_hub_id(where):
        raise StorageError(f"no model at {where!r}: it is neither a folder nor a repository's name; check the name")
    with hub_errors(f"read the input embeddings of {where}"):
        try:
            return Path(hf_hub_download(where, name, **source))
        except EntryNotFoundError:
            return None


def _weight(files: Sequence[Path], names: Sequence[str], shape: tuple[int, ...], where: str) -> torch.Tensor:
    for path in files:
        with safe_open(path, "pt") as tensors:
            key = _key(list(tensors.keys()), names)
            if key is None:
                continue
            weight: torch.Tensor = tensors.get_tensor(key)
            if tuple(weight.shape) != shape or not weight.is_floating_point():
                raise UnsupportedModelError(
                    f"the input embeddings of {where!r} are {tuple(weight.shape)} of {weight.dtype}, the config says "
                    f"{shape}; use a model whose embeddings are not quantised, and the config that belongs to it"
                )
            return weight
    raise _missing(where, names)


def _missing(where: str, names: Sequence[str]) -> StorageError:
    return StorageError(f"{where!r} has no weights named {' or '.join(names)}; use a model that transformers has saved")


def _key(keys: Sequence[str], names: Sequence[str]) -> str | None:
    """The key of one of ``names``: the only one that ends as it does. Checkpoints differ in what stands before."""
    for name in names:
        parts = name.split(".")
        for start in range(len(parts) - 1):
            ending = ".".join(parts[start:])
            found = [key for key in keys if key == ending or key.endswith(f".{ending}")]
            if len(found) == 1:
                return found[0]
    return None
