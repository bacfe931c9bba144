"""Deployments: who is answered by which version, the steps of a rollout, and the file that keeps them."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from puma_hub.errors import ConfigurationError, PumaHubError, StorageError
from puma_hub.serving.rollout import Deployment, DeploymentFile, Split, Version
from tests.fuzzing import as_file, damaged, damaged_bytes, quick, read_or_refused

OLD, NEW = Version("old", "org/llama", "org/llama-bank"), Version("new", "./gemma", "./bank", adapter="./adapter")
USERS = [f"user-{number}" for number in range(30_000)]
BOTH = Deployment("movies", OLD, NEW, Split(salt="salt"))


def drawn(deployment: Deployment) -> set[str]:
    return {user for user in USERS if deployment.version_of(user) is deployment.candidate}


# The split


def test_a_share_is_that_share_of_the_users() -> None:
    for share in (0.1, 1.0, 10.0, 50.0, 99.0):
        expected = len(USERS) * share / 100
        spread = (expected * (1 - share / 100)) ** 0.5
        assert abs(len(drawn(BOTH.with_share(share))) - expected) < 4 * spread
    assert drawn(BOTH) == set() and drawn(BOTH.with_share(100.0)) == set(USERS)


def test_a_larger_share_only_adds_users_and_a_smaller_one_only_takes_some_away() -> None:
    before: set[str] = set()
    for share in (0.5, 10.0, 10.5, 60.0, 100.0):
        now = drawn(BOTH.with_share(share))
        assert before < now
        before = now
    assert drawn(BOTH.with_share(100.0).with_share(10.0)) == drawn(BOTH.with_share(10.0))
    assert drawn(BOTH.with_share(10.0).roll_back().with_share(10.0)) == drawn(BOTH.with_share(10.0))


def test_who_is_drawn_is_sha256_of_salt_and_id() -> None:
    def below(share: float) -> set[str]:
        digests = {user: hashlib.sha256(b"salt\0" + user.encode()).hexdigest() for user in USERS}
        return {user for user, digest in digests.items() if int(digest[:16], 16) * 100 < share * 16**16}

    assert drawn(BOTH.with_share(10.0)) == below(10.0)


def test_another_candidate_draws_other_users() -> None:
    first = Deployment("movies", OLD).add(NEW).with_share(10.0)
    second = first.roll_back().retire()[0].add(NEW).with_share(10.0)
    both = len(drawn(first) & drawn(second))
    assert abs(both - 300) < 80  # 10 % of 10 %, as by chance


def test_listed_users_are_answered_by_the_candidate_and_their_ids_are_not_kept() -> None:
    listed = BOTH.with_users(["user-7", "user-8", "Ünïcode ☃"])
    assert drawn(listed) == {"user-7", "user-8"} and listed.version_of("Ünïcode ☃") is NEW
    assert drawn(listed.with_share(10.0)) == drawn(BOTH.with_share(10.0)) | {"user-7", "user-8"}
    text = json.dumps(listed.to_dict())
    assert "user-7" not in text and "code" not in text
    assert listed.with_users(["user-9"]).version_of("user-7") is OLD
    assert drawn(listed.roll_back()) == set()


# The steps


def test_a_rollout_and_the_ways_back() -> None:
    only = Deployment("movies", OLD)
    both = only.add(NEW)
    assert drawn(only) == drawn(both) == set() and both.versions == (OLD, NEW)
    promoted = both.with_share(10.0).promote()
    assert {promoted.version_of(user) for user in USERS[:100]} == {NEW}
    assert {promoted.roll_back().version_of(user) for user in USERS[:100]} == {OLD}
    after, gone = promoted.with_shadow(True).retire()
    assert (after.stable, after.candidate, after.shadow, gone) == (NEW, None, False, OLD)
    kept, gone = both.retire()
    assert (kept.stable, kept.candidate, gone) == (OLD, None, NEW)


def test_what_cannot_be_done_is_refused() -> None:
    only, both = Deployment("movies", OLD), BOTH.with_share(10.0)
    steps: list[Callable[[], Any]] = [
        only.promote,
        only.roll_back,
        only.retire,
        lambda: only.with_share(1),
        lambda: only.with_users(["a"]),
        lambda: only.with_shadow(True),
    ]
    for step in steps:
        with pytest.raises(ConfigurationError, match="old is the only version"):
            step()
    with pytest.raises(ConfigurationError, match="promote the candidate or roll it back"):
        both.retire()
    with pytest.raises(ConfigurationError, match="promote the candidate or roll it back"):
        BOTH.with_users(["a"]).retire()
    with pytest.raises(ConfigurationError, match="two versions already, old and new"):
        both.add(Version("third", "m", "b"))
    with pytest.raises(ConfigurationError, match="two versions are called 'old'"):
        only.add(Version("old", "m", "b"))
    for share in (-1, 100.1, float("nan"), float("inf"), True, "10", None):
        with pytest.raises(ConfigurationError, match="a share is a number from 0 to 100"):
            BOTH.with_share(share)  # type: ignore[arg-type]
    for name in ("", " ", "a b", ".x", "x" * 65, "ü", "a\n", 3):
        with pytest.raises(ConfigurationError, match="a version's name"):
            Version(name, "m", "b")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="options of version x"):
        Version("x", "m", "b", options={"a b": 1})
    with pytest.raises(ConfigurationError, match="about a candidate"):
        Deployment("movies", OLD, None, Split(5.0))


# The file

NAMES = st.text("abcXYZ019._-", min_size=1, max_size=20).filter(lambda name: name[0].isalnum())
TEXTS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30)
VERSIONS = st.builds(
    Version,
    NAMES,
    TEXTS,
    TEXTS,
    st.none() | TEXTS,
    st.none() | TEXTS,
    st.none() | TEXTS,
    TEXTS,
    st.dictionaries(st.sampled_from(["url", "size"]), st.none() | st.integers(-5, 5) | TEXTS),
)
SPLITS = st.builds(
    lambda share, listed, salt: Split(share, Split(salt=salt).marks(listed), salt),
    st.floats(0, 100) | st.integers(0, 100),
    st.lists(st.text(max_size=5), max_size=3),
    TEXTS,
)
DEPLOYMENTS = st.builds(
    lambda name, versions, split, shadow: (
        Deployment(name, *versions, split, shadow) if len(versions) == 2 else Deployment(name, *versions)
    ),
    TEXTS,
    st.lists(VERSIONS, min_size=1, max_size=2, unique_by=lambda version: version.name),
    SPLITS,
    st.booleans(),
)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(DEPLOYMENTS)
def test_a_deployment_is_read_as_it_was_written(deployment: Deployment) -> None:
    plain = json.loads(json.dumps(deployment.to_dict()))
    read = Deployment.from_dict(plain)
    assert read.to_dict() == deployment.to_dict()
    assert [read.version_of(user) for user in USERS[:50]] == [deployment.version_of(user) for user in USERS[:50]]


GOOD = BOTH.with_users(["user-7", "user-8"]).with_share(12.5).to_dict()


@quick
@given(damaged(GOOD).map(as_file) | damaged_bytes(as_file(GOOD)))
def test_whatever_a_file_holds_it_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    path.write_bytes(data)
    read = read_or_refused(DeploymentFile(path).read)
    if read is not None:
        assert Deployment.from_dict(json.loads(json.dumps(read.to_dict(), allow_nan=False))) == read
        assert read.version_of("user") in read.versions


def test_a_damaged_file_is_told_and_left(tmp_path: Path) -> None:
    file = DeploymentFile(tmp_path / "deployment.json")
    with pytest.raises(StorageError, match=r"no deployment file .*; make one with puma-hub rollout --add NAME"):
        file.read()
    file.write(BOTH)
    whole = file.path.read_bytes()
    for end in range(0, len(whole) - 2, 7):
        file.path.write_bytes(whole[:end])
        with pytest.raises(PumaHubError, match=r"deployment\.json"):
            file.change(lambda deployment: deployment.with_share(1.0))
        assert file.path.read_bytes() == whole[:end]
    file.path.write_text(json.dumps({**BOTH.to_dict(), "deployment_format": 2, "puma_hub_version": "9.0"}))
    with pytest.raises(ConfigurationError, match=r"format 2.*pip install -U 'puma_hub>=9\.0'"):
        file.read()
    file.path.write_text(json.dumps({**BOTH.to_dict(), "shares": 10}))
    with pytest.raises(ConfigurationError, match="a deployment has no field 'shares'"):
        file.read()


def test_a_file_that_was_edited_by_hand_is_read_or_told(tmp_path: Path) -> None:
    file = DeploymentFile(tmp_path / "deployment.json")
    file.write(BOTH)
    whole = file.path.read_bytes()
    for good in (b"\xef\xbb\xbf" + whole, whole.replace(b"\n", b"\r\n")):
        file.path.write_bytes(good)
        assert file.read() == BOTH
    for bad, words in (
        (whole.replace(b'"share": 0.0', b'"share": 10, "share": 90'), "the field 'share' is there twice"),
        (b"// ours\n" + whole, "not valid JSON"),
        (whole.decode().encode("utf-16"), "no UTF-8 text"),
        (b"", "not valid JSON"),
    ):
        file.path.write_bytes(bad)
        with pytest.raises(ConfigurationError, match=rf"deployment\.json: .*{words}.*; correct the file"):
            file.read()
    for nowhere in (tmp_path, tmp_path / "gone" / "x.json", file.path / "x.json"):
        with pytest.raises(StorageError, match="there is no deployment file"):
            DeploymentFile(nowhere).read()
    with pytest.raises(StorageError, match=r"cannot read .*: File name too long"):
        DeploymentFile(tmp_path / ("x" * 300)).read()


def test_folders_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("place/bank", "place/gemma", "beside", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    file = DeploymentFile("place/deployment.json")
    assert file.named("place/bank") == "./bank" and file.named("beside") == "../beside"
    assert file.named(str(tmp_path / "beside")) == str(tmp_path / "beside") and file.named("org/bank") == "org/bank"
    monkeypatch.chdir(tmp_path / "elsewhere")
    found = file.found(Version("new", "./gemma", "./bank", adapter="../beside"))
    assert found.model == str(tmp_path / "place" / "gemma") and found.bank == str(tmp_path / "place" / "bank")
    assert found.adapter == str(tmp_path / "beside") and file.found(OLD) == OLD
    with pytest.raises(StorageError, match=r"names './gone', and there is no such folder"):
        file.found(Version("new", "./gone", "./bank"))
    assert file.found(Version("new", "./gemma", "./bank", adapter="./gone")).adapter == str(tmp_path / "place" / "gone")


def in_child(work: Callable[[], None]) -> Any:
    child = multiprocessing.get_context("fork").Process(target=work)
    child.start()
    return child


def test_changes_at_the_same_time_are_all_made(tmp_path: Path) -> None:
    path = tmp_path / "link.json"
    os.symlink(tmp_path / "deployment.json", path)
    DeploymentFile(path).write(BOTH)

    def one_more() -> None:
        for _ in range(20):
            DeploymentFile(path).change(lambda now: now.with_share(now.split.share + 1))

    children = [in_child(one_more) for _ in range(4)]
    for child in children:
        child.join(60)
    assert DeploymentFile(path).read().split.share == 80 and path.is_symlink()


def test_a_killed_change_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    file = DeploymentFile(tmp_path / "deployment.json")
    users = USERS[:3000]
    steps = [
        lambda now: now.with_share(10.0),
        lambda now: now.with_users(users),
        lambda now: now.promote(),
        lambda now: now.roll_back(),
    ]
    states = [BOTH.to_dict()]
    for step in steps:
        states.append(step(Deployment.from_dict(states[-1])).to_dict())
    rng, killed, half_way = random.Random(0), 0, 0

    def all_steps() -> None:
        for step in steps:
            file.change(step)

    file.write(BOTH)
    began = time.perf_counter()
    all_steps()
    whole = time.perf_counter() - began
    expected = file.path.read_bytes()
    for _ in range(20):
        file.write(BOTH)
        child = in_child(all_steps)
        time.sleep(rng.random() * whole * 1.2)
        child.kill()
        child.join(60)
        killed += child.exitcode == -signal.SIGKILL
        found = file.read().to_dict()
        assert found in states  # and no other
        half_way += found not in (states[0], states[-1])
        all_steps()
        assert file.path.read_bytes() == expected
    assert killed >= 10 and half_way >= 1
    assert [path.name for path in tmp_path.iterdir()] == ["deployment.json"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    file = DeploymentFile(tmp_path / "deployment.json")
    file.write(BOTH)
    before = file.path.read_bytes()

    def full() -> None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        try:
            file.change(lambda now: now.with_users(USERS[:3000]))
        except StorageError as error:
            os._exit(0 if "free space" in str(error) else 1)
        os._exit(2)

    child = in_child(full)
    child.join(60)
    assert child.exitcode == 0 and file.path.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["deployment.json"]
    assert len(file.change(lambda now: now.with_users(USERS[:3000])).split.listed) == 3000


def test_a_way_back_does_not_wait_for_torch(tmp_path: Path) -> None:
    file = DeploymentFile(tmp_path / "deployment.json")
    file.write(BOTH.with_share(100.0))
    code = (
        "import sys; from puma_hub.cli import rollout_command; from puma_hub.cli.main import build_parser\n"
        "from puma_hub.serving.rollout import DeploymentFile\n"
        "args = build_parser().parse_args(['rollout', '--rollback'])\n"
        "DeploymentFile('deployment.json').change(rollout_command._change(args))\n"
        "assert not {'torch', 'transformers', 'datasets'} & {*sys.modules}"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert file.read().split.nobody
