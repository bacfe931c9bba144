"""No token and no password is in a message, a log or a report, whatever a library's own message holds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from puma_hub import PersonalizedLM, PumaAdapter, find_adapters
from puma_hub.adapter.checkpoint import clear_errors
from puma_hub.cli.main import main
from puma_hub.errors import CheckpointError, HubError, StorageError, without_secrets
from tests.hub_server import HubServer
from tests.test_adapter import make_adapter

SECRET = "s3cr3t"
TEXTS = (
    "cannot connect to 'https://user:s3cr3t@mirror.example/api'",
    "GET https://mirror.example/api?token=s3cr3t&x=1",
    "headers {'authorization': 'Bearer s3cr3t.abc-s3cr3t'}",
    "headers: Authorization: Basic s3cr3t==",
    "Invalid token hf_s3cr3t",
    "Looking in indexes: https://__token__:s3cr3t@registry.example/simple",
)


@pytest.mark.parametrize("text", TEXTS)
def test_secrets_of_other_libraries_messages(
    text: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert SECRET not in without_secrets(text) and without_secrets("a plain text: x=1") == "a plain text: x=1"

    def fail(*_: object, **__: object) -> None:
        raise OSError(text)

    with pytest.raises(CheckpointError) as caught, clear_errors("somewhere"):
        fail()
    assert SECRET not in str(caught.value)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", fail)
    with pytest.raises(StorageError) as refused:
        PersonalizedLM.from_pretrained("org/model")
    assert SECRET not in str(refused.value)
    monkeypatch.setattr("puma_hub.cli.search_command.run", fail)
    assert main(["search"]) == 1
    assert SECRET not in capsys.readouterr().err


def test_a_token_is_in_no_message_and_no_log(
    hub: HubServer, login: Callable[..., None], caplog: pytest.LogCaptureFixture, quick_retries: None
) -> None:
    caplog.set_level(logging.DEBUG)
    login("alice")
    token = HubServer.token("alice")
    make_adapter().push_to_hub("alice/adapter")
    hub.create_repository("alice/broken", files={"README.md": b"---\ntags: [puma-hub]\n---\n"})
    find_adapters(token=token)
    PumaAdapter.from_pretrained("alice/adapter", token=token)
    for status in (400, 401, 403, 404, 429, 500):
        hub.fail(status, path_contains="/api/models?", times=None)
        with pytest.raises(HubError) as caught:
            find_adapters(token=token)
        assert token not in str(caught.value) and token not in repr(caught.value)
        hub.clear_faults()
    assert "alice/broken" in caplog.text and token not in caplog.text
