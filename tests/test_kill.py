"""SIGKILL at random moments, again and again, and the same command: the same files in the end, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from puma_hub.training.state import STATE_FILE
from tests.commands import COMMANDS, command_place, files_of, forked_cli, hidden, temporary_folder  # noqa: F401
from tests.forked_cli import ForkedCli
from tests.hub_server import HubServer

KILLS = 20
EARLY = 0.9  # moments lie in this share of an uninterrupted run; a run that goes on comes to what is later
# Where the result comes, where it is while it is written, and how many names it takes at least.
RESULTS = {"fit": "bank", "train": "adapter", "migrate": "out"}
IN_WRITING = {"fit": "{}/out/.bank-", "train": "{}/out/.adapter-", "migrate": "{}/.out-"}
LEAST_STEPS = {"fit": 2, "train": 5, "migrate": 5}


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_at_random_moments(cli: ForkedCli, place: Path, tmp_path: Path, command: str) -> None:
    """Each run goes on with what the one before left. One that is not killed has to end as if none had been."""
    arguments = COMMANDS[command](place)
    whole = cli.run(*arguments, "--out", tmp_path / "whole")
    assert whole.status == 0, whole.err
    expected = files_of(tmp_path / "whole")
    random, killed, runs, before_checkpoint = np.random.default_rng(0), 0, 0, 0
    ended = whole
    while killed < KILLS or ended.killed:
        out = tmp_path / f"killed-{runs}"
        moment = random.uniform(0.0, EARLY * whole.seconds) if killed < KILLS else None
        ended = cli.run(*arguments, "--out", out, after=moment)
        if ended.killed:
            killed += 1
            before_checkpoint += not (out / "work" / STATE_FILE).exists()
            continue
        assert ended.status == 0, ended.err
        assert files_of(out) == expected
        runs += 1
    assert not hidden(tmp_path)
    assert command == "migrate" or 0 < before_checkpoint < KILLS


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_before_each_file_gets_its_name(cli: ForkedCli, place: Path, tmp_path: Path, command: str) -> None:
    """Work is put in its place in steps: the n-th run is killed before the n-th of them."""
    out, result = tmp_path / "out", str(tmp_path / "out" / RESULTS[command])
    arguments = [*COMMANDS[command](place), "--out", out]
    steps = 1
    while (ended := cli.run(*arguments, at=steps, places=[result, IN_WRITING[command].format(tmp_path)])).killed:
        steps += 1
    assert ended.status == 0 and steps >= LEAST_STEPS[command], ended.err
    assert "by hand" not in ended.err  # a card that a killed run left does not count as edited
    whole = cli.run(*COMMANDS[command](place), "--out", tmp_path / "whole")
    assert whole.status == 0, whole.err
    assert files_of(out) == files_of(tmp_path / "whole") and not hidden(tmp_path)


PUSHES = {"adapter": ("model", "lab/adapter", "other", "adapter"), "bank": ("dataset", "lab/bank", "few", "many")}


@pytest.mark.parametrize("kind", PUSHES)
def test_killed_while_publishing(cli: ForkedCli, place: Path, temporary: Path, hub: HubServer, kind: str) -> None:
    """After each kill the repository is as it was or as it is to be; the next push makes it what it is to be."""
    repo_type, name, *folders = PUSHES[kind]
    login = {"environment": {"HF_TOKEN": HubServer.token("alice")}, "since_connected": True}
    states, seconds = [], []
    for folder in folders:
        ended = cli.run("push", place / folder, name, **login)
        assert ended.status == 0, ended.err
        states.append(hub.repository(name, repo_type).files())
        seconds.append(ended.seconds)
    before, after = states
    assert before != after
    random, killed, was_before = np.random.default_rng(0), 0, 0
    while killed < KILLS or ended.killed:
        if not ended.killed:
            hub.repository(name, repo_type).commit({**dict.fromkeys(after), **before}, "as it was")
        moment = random.uniform(0.0, min(seconds)) if killed < KILLS else None
        ended = cli.run("push", place / folders[-1], name, after=moment, **login)
        found = hub.repository(name, repo_type).files()
        assert found in (before, after)
        killed, was_before = killed + ended.killed, was_before + (ended.killed and found == before)
        assert ended.killed or (ended.status == 0 and found == after), ended.err
    assert was_before > 0
    assert not list(temporary.iterdir())
