"""Download an adapter's config and safetensors, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from puma_hub.errors import CheckpointError
from puma_hub.hub.failures import hub_errors
from puma_hub.hub.naming import is_hub_id
from puma_hub.storage import read_json

FILES = ("config.json", "model.safetensors")


def download_adapter(repo_id: str, revision: str | None = None, subfolder: str = "", **options: Any) -> Path:
    """The folder of the cache with both files, of one commit; ``options`` are ``hf_hub_download``'s.

    transformers itself would look for other formats, and for conversions, where the safetensors are missing.

    Raises:
        CheckpointError: this is neither a folder nor a repository's name, or the repository holds no adapter.
        HubError: the files cannot be read.
    """
    from huggingface_hub import hf_hub_download

    if not is_hub_id(repo_id):
        raise CheckpointError(
            f"cannot load an adapter from {repo_id}: there is no such folder, and no repository can be called so; "
            "check the name"
        )
    with hub_errors(f"load an adapter from {repo_id}"):
        for name in FILES:
            path = Path(hf_hub_download(repo_id, name, revision=revision, subfolder=subfolder or None, **options))
            # The second file comes from the commit of the first.
            revision = path.parents[len(Path(subfolder).parts)].name
            if name == "config.json":
                require_adapter(path, repo_id)
    return path.parent


def require_adapter(config: Path, repo_id: str) -> None:
    """Refuse another model's config before its weights are downloaded or read.

    Raises:
        CheckpointError: the config is another model's.
        StorageError: it is not valid JSON.
    """
    kind = read_json(config).get("model_type")
    if kind != "puma_adapter":
        raise CheckpointError(
            f"cannot load an adapter from {repo_id}: it holds a model of type {kind!r}; give an adapter's folder, or a "
            "repository such as puma-hub search lists"
        )
