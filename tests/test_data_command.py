"""``puma-hub data``: statistics against pandas, beside the paper's, and what the command line takes for data sets."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pandas as pd
import pytest

from puma_hub.cli.main import main
from puma_hub.data import load_interactions
from puma_hub.data.statistics import TABLE_1, describe
from puma_hub.extensions import DATASETS
from tests.raw_data import MALFORMED, write_amazon
from tests.test_data_mind import SMALL, write_mind


def test_statistics_against_pandas(interactions: datasets.Dataset, tmp_path: Path) -> None:
    interactions.to_csv(tmp_path / "rows.csv", index=False)
    frame = interactions.to_pandas()
    found = describe(load_interactions(tmp_path / "rows.csv"))
    sizes = frame.groupby("user_id").size()
    assert found["users"] == len(sizes) and found["items"] == frame["item_id"].nunique()
    assert found["records"] == len(frame)
    assert found["records_per_user"] == {"mean": sizes.mean(), "min": sizes.min(), "max": sizes.max()}
    shares = frame["label"].value_counts(normalize=True)
    assert found["label_shares"] == pytest.approx({f"{label:g}": share for label, share in shares.items()})
    assert found["label_mean"] == pytest.approx(frame["label"].mean()) and "positive_ratio" not in found
    assert sum(part["records"] for part in found["splits"].values()) == len(frame)
    assert found["splits"]["train"]["users"] == len(sizes)


def test_a_data_set_beside_the_paper_s_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_amazon(tmp_path, malformed=MALFORMED)
    report = tmp_path / "report.json"
    options = ["--data-option", "max_malformed=0.5", "--data-option", "min_user_reviews=30", "--json", str(report)]
    assert main(["data", "amazon-movies", "--folder", str(tmp_path), *options]) == 0
    told = json.loads(report.read_text())
    expected = load_interactions("amazon-movies", folder=tmp_path, max_malformed=0.5, min_user_reviews=30)
    assert {name: told[name] for name in ("users", "records", "splits")} == {
        name: describe(expected)[name] for name in ("users", "records", "splits")
    }
    assert told["files"]["malformed_review_lines"] == 4 and told["paper"] == TABLE_1["amazon-movies"]
    shown = {row.split("|")[1].strip(): row.split("|")[2:4] for row in capsys.readouterr().out.splitlines()}
    assert [cell.strip() for cell in shown["users"]] == [str(told["users"]), "30,287"]
    assert shown["malformed review lines"][0].strip() == "4" and shown["records per user mean"][1].strip() == "38.5"


def test_clicks_have_a_positive_ratio(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_mind(tmp_path)
    options = [f"--data-option={name}={value}" for name, value in {**SMALL, "max_malformed": 0.1}.items()]
    report = tmp_path / "report.json"
    assert main(["data", "mind", "--folder", str(tmp_path), "--users", "5", *options, "--json", str(report)]) == 0
    told = json.loads(report.read_text())
    splits = load_interactions("mind", folder=tmp_path, users=5, max_malformed=0.1, **SMALL)
    rows = pd.concat([splits[name].to_pandas() for name in ("train", "validation")])
    assert told["users"] == 5 and told["positive_ratio"] == pytest.approx(rows["label"].mean())
    assert "0.178" in capsys.readouterr().out


def test_names_are_listed_with_their_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in DATASETS) and len(DATASETS) == 41
    assert "Cell_Phones_and_Accessories" in shown and "min_user_reviews" in shown


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["amazon-movie"], 1, "did you mean amazon-movies"),
        (["amazon-movies"], 1, "needed are Movies_and_TV.jsonl and meta_Movies_and_TV.jsonl from the page of Amazon"),
        (["yelp", "--data-option", "stars=2"], 2, "'yelp' has no option 'stars'; its options are min_user_reviews"),
        (["yelp", "--data-option", "users=2"], 2, "'yelp' has no option 'users'"),
        (["rows.csv", "--folder", "."], 2, "'rows.csv' is no data set by name"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    status: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PUMA_HUB_CACHE", str(tmp_path))
    assert main(["data", *arguments]) == status
    said = capsys.readouterr().err
    assert message in said and said.count("\n") == 1
