"""The test Hub with the real clients."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError


def test_create_upload_download(hub, login, tmp_path: Path) -> None:
    login("alice")
    api = HfApi()
    assert api.whoami()["name"] == "alice"
    api.create_repo("alice/thing", private=True)
    api.create_repo("alice/thing", exist_ok=True)
    (tmp_path / "sub").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "sub" / "w.safetensors").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "README.md").write_text(
        "---\ntags:\n- a\n- b\nbase_model:\n- x/y\n- x/z\nbase_model_relation: adapter\n---\nhello"
    )
    done = api.upload_folder(repo_id="alice/thing", folder_path=tmp_path)
    assert done.oid == hub.repository("alice/thing").head()
    folder = Path(snapshot_download("alice/thing"))
    assert (folder / "sub" / "w.safetensors").read_bytes() == bytes(range(256)) * 20
    info = api.model_info("alice/thing")
    assert "base_model:adapter:x/y" in info.tags
    assert [m.id for m in api.list_models(filter=["a", "base_model:x/z"])] == ["alice/thing"]
    login("bob")
    hub.empty_cache()
    with pytest.raises(RepositoryNotFoundError):
        hf_hub_download("alice/thing", "config.json")
