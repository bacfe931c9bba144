"""Adapters that a newer one supersedes: the mark on the old card, and what finding and choosing make of it."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import HfApi, ModelCard

from puma_hub import ModelSpec, PumaAdapter, find_adapters, find_route
from puma_hub.adapter.card import adapter_card
from puma_hub.errors import ConfigurationError, HubError, HubNotFoundError, MismatchError, PumaHubError
from puma_hub.hub.card_parts import new_version
from puma_hub.registry.listing import described
from puma_hub.registry.pair import choose
from puma_hub.registry.published import PublishedAdapter
from puma_hub.registry.route import Route, cheapest, step_loss
from tests.conftest import make_bank
from tests.hub_server import HubServer
from tests.test_hub_adapters import SOURCE, TARGET, facts, folder_of, pair_adapter, same
from tests.test_hub_cli import error_of, report_of
from tests.test_hub_route import SPECS, step, way

OLD, NEW = "alice/old", "alice/new"


def card_of(hub: HubServer, repo_id: str) -> bytes:
    return hub.repository(repo_id).files()["README.md"]


def named(hub: HubServer, repo_id: str) -> Any:
    return ModelCard(card_of(hub, repo_id).decode()).data.get("new_version")


def heads(hub: HubServer) -> dict[str, str]:
    """The newest commit of each repository that there is."""
    return {repository.id: repository.head() for repository in hub.state.repositories.values()}


def name_by_hand(hub: HubServer, repo_id: str, new: str) -> None:
    """Write ``new_version`` into a card as somebody could with an editor."""
    card = ModelCard(card_of(hub, repo_id).decode())
    card.data["new_version"] = new
    hub.repository(repo_id).commit({"README.md": str(card).encode()}, "edit")


# The mark


def test_a_push_marks_the_old_adapter_and_a_second_one_changes_nothing(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    login("alice")
    folder_of(tmp_path, pair_adapter(0), facts()).push_to_hub(OLD)
    before = card_of(hub, OLD)
    files = set(hub.repository(OLD).files())
    folder_of(tmp_path, pair_adapter(1), facts(1.1), "second")
    report = report_of(tmp_path, "push", tmp_path / "second", NEW, "--supersedes", OLD)
    assert report["repo_id"] == NEW and report["supersedes"] == OLD
    assert f"the card of {OLD} names it as the new version" in capsys.readouterr().out
    assert card_of(hub, OLD) == before.replace(b"---\n", b"---\nnew_version: alice/new\n", 1)
    assert set(hub.repository(OLD).files()) == files and named(hub, NEW) is None
    assert [commit.title for commit in hub.repository(OLD).history()][:2] == ["Superseded by alice/new", "Adapter old"]
    then = heads(hub)
    report_of(tmp_path, "push", tmp_path / "second", NEW, "--supersedes", OLD)
    pair_adapter(1).push_to_hub("new", supersedes="old", card=card_of(hub, NEW).decode())  # in one's own namespace
    assert {name: head for name, head in heads(hub).items() if name != NEW} == {OLD: then[OLD]}
    assert same(PumaAdapter.from_pretrained(OLD), pair_adapter(0))  # nobody is sent elsewhere
    capsys.readouterr()
    found = report_of(tmp_path, "search")["adapters"]
    assert [(adapter["repo_id"], adapter["new_version"]) for adapter in found] == [(NEW, None), (OLD, NEW)]  # type: ignore[attr-defined]
    lines = capsys.readouterr().out.splitlines()
    assert "superseded by" in lines[0] and lines[-1].strip("| ").endswith(NEW) and OLD in lines[-1]


BLOCK = {"sources": [SOURCE.to_dict()], "target": TARGET.to_dict()}
PLAIN = f"puma_hub: {BLOCK}"


@pytest.mark.parametrize(
    ("card", "expected"),
    [
        (
            f"---\r\n# ours\r\n{PLAIN}\r\n---\r\ntext\r\n",
            f"---\r\nnew_version: {NEW}\r\n# ours\r\n{PLAIN}\r\n---\r\ntext\r\n",
        ),
        (f"---\n{PLAIN}\nx: 'y'   # why\n---", f"---\nnew_version: {NEW}\n{PLAIN}\nx: 'y'   # why\n---"),
        (f"\n---\n{PLAIN}\nnew_version: a/b # old\n---\n", f"\n---\n{PLAIN}\nnew_version: {NEW}\n---\n"),
        (
            f"---\n{PLAIN}\nnew_version:\n---\nnew_version: a\n",
            f"---\n{PLAIN}\nnew_version: {NEW}\n---\nnew_version: a\n",
        ),
        (f"---\n{{{PLAIN}, x: 1}}\n---\n# Flow\n", None),
        (f"---\n  {PLAIN}\n  x: 1\n---\n# Indented\n", None),
        (f"---\n'new_version': a/b\n{PLAIN}\nx: 1\n---\nnew_version: no\n", None),
        (f"---\nnew_version: a/b\n{PLAIN}\nnew_version: c/d\nx: 1\n---\n# Twice\n", None),
        (f"---\nnew_version: |\n  a/b\n  c\n{PLAIN}\nx: 1\n---\n# Block\n", None),
    ],
)
def test_only_that_line_of_a_card_changes(
    hub: HubServer, login: Callable[..., None], card: str, expected: str | None
) -> None:
    login("alice")
    hub.create_repository(OLD, files={"README.md": card.encode(), "notes.md": b"kept"})
    pair_adapter().push_to_hub(NEW, supersedes=OLD)
    after = card_of(hub, OLD).decode()
    if expected is not None:
        assert after == expected
    else:  # YAML that a line does not fit into: the client writes all metadata, the same but for that key
        old, new = (yaml.safe_load(text.split("---")[1]) for text in (card, after))
        assert new == {**old, "new_version": NEW} and after.split("---")[2] == card.split("---")[2]
    assert hub.repository(OLD).files()["notes.md"] == b"kept"


def other_pair(repo_id: str, **options: object) -> None:
    pair_adapter(**options).push_to_hub(repo_id)


@pytest.mark.parametrize(
    ("prepare", "options", "error", "match"),
    [
        (lambda hub: other_pair(OLD), {"repo_id": "alice/OLD"}, ConfigurationError, "cannot supersede itself"),
        (lambda hub: hub.create_repository(OLD), {}, MismatchError, "lack the block puma_hub"),
        (lambda hub: hub.create_repository(OLD, files={"README.md": b"\xff"}), {}, MismatchError, "lack the block"),
        (
            lambda hub: other_pair(OLD, target=replace(TARGET, model_id="org/phi")),
            {},
            MismatchError,
            r"another pair: .*org/phi.* yours is .*org/gemma-2b",
        ),
        (lambda hub: other_pair(OLD, sources=[SOURCE, SOURCE]), {}, MismatchError, "another pair"),
        (lambda hub: other_pair(OLD, owners="items"), {}, MismatchError, "another pair"),
        (lambda hub: None, {}, HubNotFoundError, "mark alice/old as superseded: there is no such repository"),
        (lambda hub: None, {"supersedes": "a--b"}, ConfigurationError, "repository's name is needed.*'a--b'"),
        (lambda hub: None, {"supersedes": ""}, ConfigurationError, "repository's name is needed"),
        (lambda hub: hub.create_repository("bob/old"), {"supersedes": "bob/old"}, HubError, "lacks the right"),
        (lambda hub: other_pair(OLD), {"private": True}, ConfigurationError, "sent to what they may not see"),
        (lambda hub: other_pair(OLD), {"revision": "trial"}, ConfigurationError, "branch main"),
        (lambda hub: other_pair(OLD), {"create_pr": True}, ConfigurationError, "branch main"),
        (
            lambda hub: other_pair(OLD),
            {"card": f"---\nnew_version: {OLD}\n---\n"},
            ConfigurationError,
            "each would supersede the other",
        ),
    ],
)
def test_what_cannot_be_superseded_leaves_nothing_half_done(
    hub: HubServer,
    login: Callable[..., None],
    prepare: Callable[[HubServer], Any],
    options: dict[str, Any],
    error: type[PumaHubError],
    match: str,
) -> None:
    login("alice")
    prepare(hub)
    before = heads(hub)
    with pytest.raises(error, match=match) as caught:
        pair_adapter(1).push_to_hub(**{"repo_id": NEW, "supersedes": OLD, **options})
    assert heads(hub) == before and "\n" not in str(caught.value)


def test_two_adapters_do_not_supersede_each_other(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    other_pair(OLD)
    pair_adapter(1).push_to_hub(NEW, supersedes=OLD)
    before = heads(hub)
    with pytest.raises(ConfigurationError, match="each would supersede the other"):
        pair_adapter(2).push_to_hub(OLD, supersedes=NEW)
    assert heads(hub) == before
    pair_adapter(2).push_to_hub("lab/newer", supersedes=NEW)  # a line of versions
    assert (named(hub, OLD), named(hub, NEW), named(hub, "lab/newer")) == (NEW, "lab/newer", None)


def test_on_the_command_line(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_bank(3).save_pretrained(tmp_path / "bank")
    pair_adapter().save_pretrained(tmp_path / "adapter")
    arguments = ["push", tmp_path / "bank", "alice/bank", "--supersedes", OLD]
    assert "--supersedes is for adapters" in error_of(capsys, *arguments, status=2)
    assert "log in" in error_of(capsys, "push", tmp_path / "adapter", NEW, "--supersedes", OLD)
    login("alice")
    assert "no such repository" in error_of(capsys, "push", tmp_path / "adapter", NEW, "--supersedes", OLD)
    assert heads(hub) == {}


def test_somebody_commits_to_the_old_card_at_the_same_time(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    other_pair(OLD)
    text = card_of(hub, OLD) + b"\nAn edit.\n"
    slow = hub.slow(0.3, path_contains=f"/{OLD}/preupload/")
    ours = threading.Thread(target=lambda: pair_adapter(1).push_to_hub(NEW, supersedes=OLD))
    ours.start()
    while not slow.hits:
        time.sleep(0.01)
    hub.repository(OLD).commit({"README.md": text}, "theirs")
    ours.join()
    assert card_of(hub, OLD) == text.replace(b"---\n", b"---\nnew_version: alice/new\n", 1)
    assert hub.repository(OLD).history()[1].title == "theirs"


def test_a_mark_that_failed_is_told_and_made_by_the_same_call(
    hub: HubServer, login: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    login("alice")
    other_pair(OLD)
    name_by_hand(hub, OLD, "alice/before")
    hub.fail(500, path_contains=f"/{OLD}/commit/", times=1)
    with pytest.raises(HubError, match=r"alice/new, which was pushed \(the same call again completes it\)"):
        pair_adapter(1).push_to_hub(NEW, supersedes=OLD)
    pushed = hub.repository(NEW).head()
    assert named(hub, OLD) == "alice/before"
    pair_adapter(1).push_to_hub(NEW, supersedes=OLD)
    assert hub.repository(NEW).head() == pushed and named(hub, OLD) == NEW
    assert "named alice/before as its new version, and now names alice/new" in caplog.text


# Later pushes of the old adapter


def test_a_later_push_keeps_the_mark(hub: HubServer, login: Callable[..., None], tmp_path: Path) -> None:
    login("alice")
    old = folder_of(tmp_path, pair_adapter(0), facts())
    old.push_to_hub(OLD)
    pair_adapter(1).push_to_hub(NEW, supersedes=OLD)
    old.push_to_hub(OLD, commit_message="Made anew")
    assert named(hub, OLD) == NEW and hub.repository(OLD).history()[0].title == "Made anew"
    old.push_to_hub(OLD, card="---\nlicense: mit\n---\n# Edited\n")
    assert named(hub, OLD) == NEW and b"# Edited" in card_of(hub, OLD)
    old.push_to_hub(OLD, revision="trial")
    assert b"new_version: alice/new" in hub.repository(OLD).files("trial")["README.md"]
    old.push_to_hub(OLD, card="---\nnew_version: lab/other\n---\n")  # said by hand
    assert named(hub, OLD) == "lab/other"
    plain = str(adapter_card(old, OLD, facts())).encode()
    hub.repository(OLD).commit({"README.md": plain}, "no longer superseded")
    old.push_to_hub(OLD)
    assert named(hub, OLD) is None
    for strange in (b"---\nself: 1\nnew_version: a/b\n---\n", b"---\n- list\n---\n", b"\xff", None):
        hub.repository(OLD).commit({"README.md": strange}, "strange")
        old.push_to_hub(OLD)
    assert named(hub, OLD) is None


def test_a_mark_that_is_made_during_a_push_is_kept(hub: HubServer, login: Callable[..., None]) -> None:
    login("alice")
    other_pair(OLD)
    slow = hub.slow(0.3, path_contains=f"/{OLD}/preupload/")
    push = threading.Thread(target=lambda: pair_adapter(2).push_to_hub(OLD, card="# Edited\n"))
    push.start()
    while not slow.hits:
        time.sleep(0.01)
    name_by_hand(hub, OLD, NEW)
    push.join()
    assert named(hub, OLD) == NEW and same(PumaAdapter.from_pretrained(OLD), pair_adapter(2))


def test_the_old_card_in_the_new_folder_does_not_supersede_the_new_adapter(
    hub: HubServer, login: Callable[..., None], tmp_path: Path
) -> None:
    login("alice")
    other_pair(OLD)
    pair_adapter(1).push_to_hub(NEW, supersedes=OLD)
    HfApi().snapshot_download(OLD, local_dir=tmp_path / "work")  # trained further from there
    PumaAdapter.from_pretrained(tmp_path / "work").push_to_hub(NEW, supersedes=OLD)
    assert named(hub, NEW) is None and named(hub, OLD) == NEW


# Reading


@pytest.mark.parametrize(
    "given",
    [
        *(
            "name",
            "a/b/c",
            "https://huggingface.co/a/b",
            "a/b ",
            "a/\x1b[2Jb",
            "a--b/c",
            "a/" + "b" * 97,
            "/tmp/x",
            "../b",
        ),
        *("", 5, True, ["a/b"], {"a": "b"}, float("nan"), "ALICE/old", "a/ü"),
    ],
)
def test_what_is_no_new_version_is_ignored(given: object, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "puma_hub")
    assert new_version({"new_version": given}, OLD) is None
    assert "new_version of 'alice/old' is ignored" in caplog.text and "\x1b" not in caplog.text
    assert new_version({"new_version": "lab/b.c_D-1"}, OLD) == "lab/b.c_D-1"


def test_superseded_adapters_come_last_and_are_chosen_last(
    hub: HubServer, login: Callable[..., None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    login("alice")
    for seed, (name, rmse) in enumerate({"best": 0.96, "middle": 1.0, "worst": 1.1}.items()):
        folder_of(tmp_path, pair_adapter(seed), facts(rmse), name).push_to_hub(f"alice/{name}")
    name_by_hand(hub, "alice/best", "alice/worst")

    def found() -> list[str]:
        return [adapter.repo_id.partition("/")[2] for adapter in find_adapters(SOURCE, TARGET)]

    assert found() == ["middle", "worst", "best"]
    assert same(PumaAdapter.from_pair(SOURCE, TARGET), pair_adapter(1)) and "superseded" not in caplog.text
    name_by_hand(hub, "alice/worst", "alice/best")  # a circle, which nothing walks
    name_by_hand(hub, "alice/middle", "alice/middle")  # of no meaning
    assert found() == ["middle", "best", "worst"]
    name_by_hand(hub, "alice/middle", "evil/of-another-pair")
    hub.clear_requests()
    adapter = PumaAdapter.from_pair(SOURCE, TARGET)
    assert same(adapter, pair_adapter(0)) and adapter.published.new_version == "alice/worst"
    assert "alice/best is superseded, and no other adapter" in caplog.text and "names alice/worst" in caplog.text
    assert {request.repo for request in hub.requests if request.repo} == {"alice/best"}  # no name was followed
    published = described("alice/best")
    assert published["cardData"]["new_version"] == "alice/worst"


def test_of_superseded_adapters_the_one_for_these_weights_is_chosen() -> None:
    def adapter(repo_id: str, fingerprint: str | None, new: str | None) -> PublishedAdapter:
        return step(
            "a", "b", repo_id=repo_id, sources=(ModelSpec("org/a", 32, fingerprint=fingerprint),), new_version=new
        )

    ours = ModelSpec("org/a", 32, fingerprint="a" * 16)
    exact, unknown, other = adapter("x/1", "a" * 16, "x/9"), adapter("x/2", None, "x/9"), adapter("x/3", "b" * 16, None)
    assert choose([unknown, exact, other], ours, "org/b") == exact
    assert choose([exact, adapter("x/4", None, None)], ours, "org/b").repo_id == "x/4"
    with pytest.raises(MismatchError, match="other weights"):
        choose([other], ours, "org/b")


# Routes


def test_a_route_has_as_few_superseded_adapters_as_there_can_be() -> None:
    generator = random.Random(1)
    for _ in range(60):
        steps = [
            step(
                *generator.sample(list(SPECS), 2),
                generator.choice([None, 0.0, 0.02, 0.5]),
                repo_id=f"u/{number}",
                new_version=generator.choice([None, "u/new"]),
            )
            for number in range(generator.randint(1, 9))
        ]
        ways: list[Sequence[PublishedAdapter]] = [[s] for s in steps if s.sources[0] == SPECS["a"]]
        complete: list[Sequence[PublishedAdapter]] = []
        while ways:
            current = ways.pop()
            if current[-1].target == SPECS["d"]:
                complete.append(current)
            elif len(current) < 5:
                ways += [[*current, s] for s in steps if s.sources[0] == current[-1].target and s not in current]

        def cost(route: Sequence[PublishedAdapter]) -> tuple[int, float, int]:
            loss = 1.0
            for adapter in route:
                loss *= 1 + step_loss(adapter)
            return sum(adapter.new_version is not None for adapter in route), round(loss, 9), len(route)

        found = cheapest(steps, SPECS["a"], SPECS["d"])
        assert (cost(found.adapters) if found else None) == min(map(cost, complete), default=None)


def test_a_superseded_adapter_on_a_route_is_told(
    hub: HubServer, login: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "puma_hub")
    login("alice")
    for source, target in ("ab", "bc", "ac"):
        pair_adapter(sources=[SPECS[source]], target=SPECS[target]).push_to_hub(f"alice/{source}{target}")
    assert way(find_route("org/a", "org/c")) == "ac"
    name_by_hand(hub, "alice/ac", "alice/newer")
    assert way(find_route("org/a", "org/c")) == "abc"
    assert "alice/ac is superseded by alice/newer, so it was not taken" in caplog.text
    name_by_hand(hub, "alice/bc", "alice/newer")
    caplog.clear()
    route = find_route("org/a", "org/c")
    assert isinstance(route, Route) and way(route) == "ac"
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1 and "alice/ac is superseded, and no route does without it" in warned[0]
    assert route.to_dict()["adapters"][0]["new_version"] == "alice/newer"
