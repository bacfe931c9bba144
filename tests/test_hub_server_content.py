"""The test Hub: files, models and datasets by the real clients, and every fault it can be told to show."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import datasets
import httpx2
import huggingface_hub.constants
import numpy as np
import pytest
from huggingface_hub import HfApi, HfFileSystem, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.conftest import make_model, make_tokenizer

WEIGHTS = np.random.default_rng(0).bytes(200_000)


# Parts of files, models, datasets


def test_a_part_of_a_file_is_read_alone(hub) -> None:
    hub.create_repository("alice/thing", files={"weights/model.safetensors": WEIGHTS})
    with HfFileSystem().open("alice/thing/weights/model.safetensors", block_size=4096) as file:
        file.seek(100_000)
        assert file.read(1000) == WEIGHTS[100_000:101_000]
        file.seek(-10, 2)
        assert file.read() == WEIGHTS[-10:]
    assert hub.opened() == {"weights/model.safetensors"}
    assert hub.downloaded() < 20_000
    read = [request for request in hub.requests if request.method == "GET" and request.filename]
    assert read and all(request.range and request.status == 206 for request in read)
    url = f"{hub.endpoint}/alice/thing/resolve/main/weights/model.safetensors"
    assert httpx2.get(url, headers={"Range": "bytes=-5"}).content == WEIGHTS[-5:]
    assert httpx2.get(url, headers={"Range": "bytes=199990-"}).content == WEIGHTS[199_990:]
    assert httpx2.get(url, headers={"Range": "bytes=200000-"}).status_code == 416


def test_a_model_goes_to_the_hub_and_back(api: HfApi, hub, login) -> None:
    model, tokenizer = make_model("llama"), make_tokenizer()
    model.push_to_hub("alice/tiny", private=True)
    tokenizer.push_to_hub("alice/tiny")
    hub.empty_cache()
    loaded = AutoModelForCausalLM.from_pretrained("alice/tiny")
    assert all(bool((a == b).all()) for a, b in zip(model.parameters(), loaded.parameters()))
    assert AutoTokenizer.from_pretrained("alice/tiny")("Toy Story") == tokenizer("Toy Story")
    login("bob")
    hub.empty_cache()
    with pytest.raises(OSError, match="alice/tiny"):
        AutoModelForCausalLM.from_pretrained("alice/tiny")


def test_a_dataset_is_pushed_loaded_and_streamed(api: HfApi, hub, login) -> None:
    rows = datasets.Dataset.from_dict(
        {"name": [f"user-{i}" for i in range(1000)], "value": [float(i) for i in range(1000)]}
    )
    rows.push_to_hub("alice/rows", private=True, num_shards=4)
    files = api.list_repo_files("alice/rows", repo_type="dataset")
    assert len([name for name in files if name.endswith(".parquet")]) == 4 and "README.md" in files
    hub.empty_cache()
    hub.clear_requests()
    assert datasets.load_dataset("alice/rows", split="train")["value"][:] == rows["value"][:]
    opened = hub.opened()
    assert len(opened) >= 4 and all(name.endswith((".parquet", "README.md")) for name in opened)
    hub.empty_cache()
    hub.clear_requests()
    stream = datasets.load_dataset("alice/rows", split="train", streaming=True)
    assert [row["value"] for row in stream.take(3)] == [0.0, 1.0, 2.0]
    assert len([name for name in hub.opened() if name.endswith(".parquet")]) < 4
    assert [row["value"] for row in stream] == rows["value"][:]
    rows.select(range(10)).push_to_hub("alice/rows")
    assert len(datasets.load_dataset("alice/rows", split="train")) == 10
    login("bob")
    hub.empty_cache()
    with pytest.raises(datasets.exceptions.DatasetNotFoundError):
        datasets.load_dataset("alice/rows")


def test_children_talk_to_the_same_hub(api: HfApi, hub) -> None:
    api.create_repo("alice/thing", private=True)
    code = "from huggingface_hub import HfApi; print(HfApi().model_info('alice/thing').private)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


# Faults


@pytest.fixture
def thing(hub, login) -> str:
    """A filled repository of alice, who is logged in."""
    hub.create_repository("alice/thing", files={"config.json": b"{}", "weights/model.safetensors": WEIGHTS})
    login("alice")
    return "alice/thing"


@pytest.mark.parametrize("status", [401, 403, 404, 409, 429, 500, 503])
def test_every_status_reaches_the_client(hub, thing: str, status: int) -> None:
    fault = hub.fail(status, path_contains="/api/models/alice/thing")
    with pytest.raises(HfHubHTTPError) as caught:
        HfApi().model_info(thing)
    assert caught.value.response.status_code == status
    assert fault.hits == 1
    assert HfApi().model_info(thing).id == thing  # once only


def test_faults_choose_their_requests(hub, thing: str) -> None:
    fault = hub.fail(500, method="GET", path_contains="/revision/", after=1, times=None, body=b"oops")
    assert HfApi().model_info(thing).id == thing
    assert HfApi().model_info(thing, revision="main").id == thing
    for _ in range(2):
        with pytest.raises(HfHubHTTPError, match="500"):
            HfApi().model_info(thing, revision="main")
    assert fault.hits == 2
    hub.clear_faults()
    assert HfApi().model_info(thing, revision="main").id == thing


def test_too_many_requests_are_tried_again_after_a_while(hub, thing: str, quick_retries: None) -> None:
    fault = hub.fail(429, method="GET", path_contains="model.safetensors", headers={"Retry-After": "1"}, times=2)
    assert Path(hf_hub_download(thing, "weights/model.safetensors")).read_bytes() == WEIGHTS
    assert fault.hits == 2
    assert [request.status for request in hub.requests if request.method == "GET"] == [429, 429, 200]


def test_a_cut_download_goes_on_where_it_stopped(
    hub, thing: str, quick_retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # a chunk is what is kept
    hub.cut(50_000, method="GET", path_contains="model.safetensors")
    assert Path(hf_hub_download(thing, "weights/model.safetensors")).read_bytes() == WEIGHTS
    first, second = [request for request in hub.requests if request.method == "GET"]
    assert (first.status, first.sent) == (200, 50_000)
    assert (second.status, second.range, second.sent) == (206, "bytes=50000-", len(WEIGHTS) - 50_000)


def test_a_download_cut_for_good_leaves_nothing_in_the_cache(hub, thing: str, quick_retries: None) -> None:
    hub.cut(10, method="GET", path_contains="model.safetensors")
    hub.drop(method="GET", path_contains="model.safetensors", times=None)
    with pytest.raises(httpx2.RemoteProtocolError):
        hf_hub_download(thing, "weights/model.safetensors")
    hub.clear_faults()
    hub.drop(times=None)
    with pytest.raises(LocalEntryNotFoundError):
        hf_hub_download(thing, "weights/model.safetensors", local_files_only=True)


def test_a_slow_download_takes_its_time(hub, thing: str) -> None:
    hub.slow(0.02, chunk=len(WEIGHTS) // 10, method="GET", path_contains="model.safetensors")
    start = time.monotonic()
    assert Path(hf_hub_download(thing, "weights/model.safetensors")).read_bytes() == WEIGHTS
    assert time.monotonic() - start >= 0.2


def test_a_slow_answer_times_out(hub, thing: str) -> None:
    hub.slow(30, path_contains="/api/models/alice/thing")
    with pytest.raises(httpx2.TimeoutException):
        HfApi().model_info(thing, timeout=0.2)


@pytest.mark.parametrize("where", ["/preupload/", "/objects/batch", "/lfs-objects/"])
def test_an_upload_survives_faults_on_its_way(hub, thing: str, quick_retries: None, where: str) -> None:
    refused = hub.fail(503, path_contains=where, times=2)
    dropped = hub.drop(path_contains=where)
    HfApi().upload_file(path_or_fileobj=WEIGHTS[::-1], path_in_repo="weights/model.safetensors", repo_id=thing)
    assert hub.repository(thing).files()["weights/model.safetensors"] == WEIGHTS[::-1]
    assert (refused.hits, dropped.hits) == (2, 1)


def test_a_commit_that_fails_changes_nothing(hub, thing: str) -> None:
    before = hub.repository(thing).head()
    hub.fail(500, method="POST", path_contains="/commit/")
    with pytest.raises(HfHubHTTPError, match="500"):
        HfApi().upload_file(path_or_fileobj=b"new", path_in_repo="config.json", repo_id=thing)
    hub.drop(method="POST", path_contains="/commit/")
    with pytest.raises(httpx2.TransportError):
        HfApi().upload_file(path_or_fileobj=b"new", path_in_repo="config.json", repo_id=thing)
    assert hub.repository(thing).head() == before


def test_a_commit_is_made_though_its_answer_is_lost(hub, thing: str) -> None:
    hub.cut(0, method="POST", path_contains="/commit/")
    with pytest.raises(httpx2.RemoteProtocolError):
        HfApi().upload_file(path_or_fileobj=b"new", path_in_repo="config.json", repo_id=thing)
    assert hub.repository(thing).files()["config.json"] == b"new"


def test_content_is_tampered_with(hub, thing: str) -> None:
    hub.tamper(lambda content: bytes(len(content)), method="GET", path_contains="model.safetensors")
    assert Path(hf_hub_download(thing, "weights/model.safetensors")).read_bytes() == bytes(len(WEIGHTS))
    hub.empty_cache()
    hub.tamper(lambda content: content[:-1], method="GET", path_contains="model.safetensors")
    with pytest.raises(OSError, match="Consistency check failed"):
        hf_hub_download(thing, "weights/model.safetensors")


def test_a_stream_of_rows_survives_faults(api: HfApi, hub, quick_retries: None) -> None:
    rows = datasets.Dataset.from_dict({"value": list(range(5000))})
    rows.push_to_hub("alice/rows")
    hub.fail(503, method="GET", path_contains=".parquet", times=2)
    hub.cut(100, method="GET", path_contains=".parquet")
    stream = datasets.load_dataset("alice/rows", split="train", streaming=True)
    assert [row["value"] for row in stream] == rows["value"][:]


def test_an_unknown_name_is_refused_at_once(hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(seconds: float) -> None:
        raise AssertionError(f"the client waits {seconds} s to try again")

    monkeypatch.setattr(time, "sleep", wait)
    for name in ("gpt2", "nobody/nothing"):
        with pytest.raises(OSError, match=name):
            AutoTokenizer.from_pretrained(name)
