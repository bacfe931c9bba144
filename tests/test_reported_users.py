"""Reports on users of a list, and on those that the adapter never trained on: counted, never named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from puma_hub.bank.user_lists import write_users
from puma_hub.cli.main import main
from puma_hub.errors import InteractionsError, SelectionError, UnknownUserError
from puma_hub.evaluation import migration_report
from puma_hub.evaluation.reported_users import ReportedUsers
from tests.conftest import make_bank, make_interactions
from tests.test_report_page import IDS, place, report  # noqa: F401

TRAINED, OTHERS = IDS[:5], IDS[5:]


@pytest.fixture
def lists(tmp_path: Path) -> dict[str, Path]:
    """Lists of users in files, by what they are."""
    users = {
        "trained": TRAINED,
        "some": [IDS[1], IDS[6], IDS[7]],
        "deleted": [*TRAINED, "gone-1", "gone-2"],
        "everybody": IDS,
        "strange": ["7", "8", "9"],
        "partly": [IDS[0], "gone-1", "gone-2"],
        "few": IDS[:4],
        "no rows": [IDS[3]],
    }
    for name, ids in users.items():
        write_users(tmp_path / f"{name}.txt", ids)
    return {name: tmp_path / f"{name}.txt" for name in users}


def compared(place: Path, out: Path, *more: object, rows: Path | None = None) -> dict[str, Any]:  # noqa: F811
    """What ``puma-hub compare`` says of the same banks."""
    sides = ["--source", place / "llama", "--source-bank", place / "source", "--model", place / "gemma3"]
    command = [*sides, "--bank", place / "target", "--interactions", rows or place / "rows.json", *more, "--json", out]
    assert main(["compare", *map(str, command)]) == 0
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def of_users(place: Path, users: list[str], out: Path) -> Path:  # noqa: F811
    """The rows of some users, as a file."""
    lines = (place / "rows.json").read_text().splitlines()
    out.write_text("\n".join(line for line in lines if json.loads(line)["user_id"] in users))
    return out


@pytest.mark.parametrize(
    ("given", "users", "described"),
    [
        (
            ["--trained-users", "{trained}"],
            OTHERS,
            "the users that the adapter never trained on (those it trained on: 5 left out)",
        ),
        (["--only-users", "{some}"], [IDS[1], *IDS[6:]], "the users of a list of 3"),
        (
            ["--only-users", "{some}", "--trained-users", "{deleted}"],
            IDS[6:],
            "the users of a list of 3 that the adapter never trained on (those it trained on: 1 left out, 2 in no "
            "bank)",
        ),
    ],
    ids=["unseen", "listed", "both"],
)
def test_figures_are_those_of_their_rows_alone(
    place: Path,  # noqa: F811
    lists: dict[str, Path],
    tmp_path: Path,
    given: list[str],
    users: list[str],
    described: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [part.format(**lists) for part in given]
    expected = compared(place, tmp_path / "expected.json", rows=of_users(place, users, tmp_path / "rows.json"))
    page, data = tmp_path / "report.html", tmp_path / "report.json"
    command = report(place, *given, "--adapter", place / "run" / "adapter", "--out", page, "--json", data)
    capsys.readouterr()
    assert main(command) == 0
    printed = capsys.readouterr().out
    found = json.loads(data.read_text())
    assert found["users"] == len(users) == expected["users"] and found["rows"] == 4 * len(users)
    for side in ("source", "target"):
        assert [found[side][name] for name in ("own", "mean")] == pytest.approx(
            [expected[side][name] for name in ("own", "mean")], rel=1e-6
        )
    assert found["reported_users"]["described"] == described
    assert f"reported on: {described}\n" in printed and described in page.read_text(encoding="utf-8")
    learnt = "the adapter trained on 5 users: where they are among these, figures may be too good"
    assert (learnt in found["notes"]) is ("--trained-users" not in given)
    again = compared(place, tmp_path / "compared.json", *given)
    assert {name: found[name] for name in again} == again
    evaluated = tmp_path / "evaluated.json"
    command = ["evaluate", "--model", place / "gemma3", "--bank", place / "target", "--controls", *given]
    assert main([*map(str, command), "--interactions", str(place / "rows.json"), "--json", str(evaluated)]) == 0
    alone = json.loads(evaluated.read_text())
    assert alone["metrics"]["rmse"] == pytest.approx(found["target"]["own"], rel=1e-6)
    assert alone["controls"]["shuffled"] == pytest.approx(found["target"]["shuffled"], rel=1e-6)
    assert (alone["users"], alone["rows_without_prompt"]) == (len(users), 4)  # of the user whom this bank lacks
    assert alone["reported_users"]["described"].startswith(described.partition(" (")[0])
    texts = [printed, capsys.readouterr().out, *(path.read_text(encoding="utf-8") for path in (page, data, evaluated))]
    assert not [name for name in (*IDS, "gone-1") for text in texts if name in text or json.dumps(name)[1:-1] in text]


@pytest.mark.parametrize(
    ("given", "status", "says"),
    [
        (["--trained-users", "{everybody}"], 1, "the adapter trained on all 8 users, so nobody is left to report on"),
        (["--only-users", "{few}", "--trained-users", "{trained}"], 1, "trained on all 4 users, so nobody is left"),
        (["--trained-users", "{strange}"], 1, "none of the 3 users that the adapter trained on is in a bank"),
        (["--only-users", "{partly}"], 1, "2 of 3 users are in neither bank"),
        (["--only-users", "{no rows}"], 1, "none of the"),
        (["--only-users", "absent.txt"], 1, "cannot read the users in absent.txt"),
        (["--trained-users", "{few}", "--adapter", "{adapter}"], 1, "has 4, and the adapter trained on 5; give the"),
        (["--trained-users", "new.html"], 2, "an input"),
    ],
)
def test_what_is_refused(
    place: Path,  # noqa: F811
    lists: dict[str, Path],
    tmp_path: Path,
    given: list[str],
    status: int,
    says: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "new.html" in given:
        write_users("new.html", IDS[:1])
    before = sorted(tmp_path.iterdir())
    given = [part.format(**lists, adapter=place / "run" / "adapter") for part in given]
    assert main(report(place, *given, "--out", "new.html")) == status
    said = capsys.readouterr().err
    assert says in said and not [name for name in (*IDS, "gone-1") if name in said]
    assert sorted(tmp_path.iterdir()) == before


def test_from_python(make_lm: Any) -> None:
    lm, bank = make_lm(), make_bank(family="llama")
    rows = make_interactions()
    seen = {"user-0", "user-1", "user-2", "deleted"}
    found = migration_report(lm, bank, lm, bank, rows, trained_users=sorted(seen), resamples=100).data
    unseen = [user for user in bank.user_ids if user not in seen]
    expected = migration_report(lm, bank, lm, bank, rows, users=unseen, resamples=100).data
    assert found["figures"] == expected["figures"] and found["users"] == 5
    assert found["reported_users"] == {
        "described": "the users that the adapter never trained on (those it trained on: 3 left out, 1 in no bank)",
        "listed": None,
        "trained": 3,
        "unknown": 1,
    }
    with pytest.raises(UnknownUserError, match="1 of 2 users"):
        migration_report(lm, bank, lm, bank, rows, users=["user-7", "other"], trained_users=["user-1"])
    with pytest.raises(SelectionError, match="nobody is left"):
        migration_report(lm, bank, lm, bank, rows, users=["user-1"], trained_users=["user-1"])


def test_rows_of_users_without_a_prompt_are_kept_to_be_counted() -> None:
    rows = datasets.Dataset.from_dict({"user_id": ["a", "b", "c", "a"], "label": [1.0, 2.0, 3.0, 4.0]})
    whom = ReportedUsers.of(["a", "b"], trained=["a"])
    assert whom.kept(rows, ["a", "b"])["user_id"][:] == ["b", "c"]
    assert ReportedUsers.of(["a", "b"]).kept(rows, ["a", "b"]) is rows
    with pytest.raises(InteractionsError, match="none of the 1 users to report on"):
        ReportedUsers.of(["a", "b", "d"], trained=["a", "b"]).kept(rows, ["a", "b", "d"])
