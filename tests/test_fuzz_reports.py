"""Cards on the Hub, and reports that a gate reads: whatever they say, they are read or refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from puma_hub import find_adapters
from puma_hub.cli.main import main
from puma_hub.evaluation.gate import BY, CONDITIONS, Gate
from puma_hub.hub.naming import LIBRARY, source_tag, target_tag
from puma_hub.registry.published import read_listing
from puma_hub.storage import read_json
from tests.fuzzing import ANY_JSON, as_file, damaged, damaged_bytes, quick, read_or_refused
from tests.hub_server import HubServer
from tests.test_hub_hostile import CARD, ENTRY

INTERVAL = {"estimate": 0.9, "low": 0.8, "high": 1.0}
REPORT = {
    "format_version": 1,
    "metric": "rmse",
    "users": 40,
    "rows": 400,
    "source": {"metric": "rmse", "own": 1.0, "rows": 400},
    "target": {"metric": "rmse", "own": 1.1, "rows": 400},
    "figures": {"rmse": {"retention": INTERVAL, "worsening": INTERVAL}},
    "retention": 0.9,
    "worse": {"clearly": {"excess": INTERVAL}},
    "agreement": {"pearson": INTERVAL},
    "drift": {"all": {"drift": {"estimate": -0.1, "low": -0.2, "high": 0.1}}},
}
PLAIN = {name: REPORT[name] for name in ("users", "rows", "source", "target", "retention")}
LIMITS = {name: 10 if name in ("min_users", "min_rows") else 0.5 for name in CONDITIONS}


@quick
@given(report=damaged(REPORT) | damaged(PLAIN) | ANY_JSON, by=st.sampled_from(BY))
def test_any_report_is_judged_or_refused(report: Any, by: str) -> None:
    verdict = read_or_refused(Gate(**LIMITS, by=by).judge, report)
    if verdict is None:
        return
    assert [outcome.condition for outcome in verdict.outcomes] == list(CONDITIONS)
    for outcome in verdict.outcomes:
        assert (outcome.value is None) != (outcome.reason is None) and (outcome.value is not None or not outcome.passed)
        assert outcome.value is None or math.isfinite(outcome.value)
        assert len(str(outcome).splitlines()) == 1
    json.dumps(verdict.to_dict(), allow_nan=False)


@settings(quick, max_examples=40)
@given(content=damaged(REPORT).map(as_file) | damaged_bytes(as_file(REPORT)))
def test_any_file_is_judged_or_refused_by_the_command(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "report.json").write_bytes(content)
    status = main(["gate", "--report", str(tmp_path / "report.json"), "--min-retention", "0.8", "--max-drift", "0.3"])
    said = capsys.readouterr()
    assert status in (0, 1, 2) and "unexpected error" not in said.err
    assert len(said.err.splitlines()) == (0 if said.out else 1)
    data = read_or_refused(read_json, tmp_path / "report.json")
    assert data is not None or not said.out


def test_the_reports_that_these_come_from_pass() -> None:
    """Else nothing but refusals would be tested."""
    for report in (REPORT, PLAIN):
        verdict = Gate(**LIMITS).judge(report)
        assert sum(outcome.value is not None for outcome in verdict.outcomes) >= 4
    assert read_listing(ENTRY) is not None


def as_card(data: Any) -> bytes:
    text = yaml.safe_dump(data, allow_unicode=False)
    return f"---\n{text}---\n# Card\n".encode("utf-8", "surrogatepass")


TAGS = [LIBRARY, source_tag("org/a"), target_tag("org/b")]
TAGGED = {**CARD, "library_name": LIBRARY, "tags": TAGS}
GOOD_CARD = as_card(TAGGED)


@settings(quick, max_examples=60)
@given(content=damaged(TAGGED).map(as_card) | damaged_bytes(GOOD_CARD))
def test_any_card_of_a_stranger_hides_no_other(hub: HubServer, login: Callable[..., None], content: bytes) -> None:
    """One repository of a stranger, whatever its README holds, beside one that is found."""
    login(None)
    hub.reset()
    hub.create_repository("alice/good", files={"README.md": GOOD_CARD})
    hub.create_repository("bob/bad", files={"README.md": content})
    found = read_or_refused(find_adapters, "org/a", "org/b")
    assert found is not None and "alice/good" in [adapter.repo_id for adapter in found]
    for adapter in found:
        json.dumps(adapter.to_dict(), allow_nan=False)
