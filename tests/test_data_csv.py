"""Delimited text: every cell as it stands, or an error with its line."""

from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import datasets
import pandas as pd
import pyarrow as pa
import pytest

from puma_hub.data import load_interactions
from puma_hub.errors import ConfigurationError, InteractionsError, PumaHubError

HEADER = "user_id,item_id,item_text,label"
BODY = "u1,i1,Heat,4\nu1,i2,Alien,3.5\n"
ROWS = {"user_id": ["u1", "u1"], "item_id": ["i1", "i2"], "item_text": ["Heat", "Alien"], "label": [4.0, 3.5]}


def read(path: Path, content: str | bytes, name: str = "rows.csv", **options: object) -> dict[str, list[object]]:
    file = path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    splits = load_interactions(file, held_out=0.5, **options)  # type: ignore[arg-type]
    return datasets.concatenate_datasets([splits["train"], splits["validation"]]).to_dict()


def message(path: Path, content: str | bytes, name: str = "rows.csv", **options: object) -> str:
    with pytest.raises(PumaHubError) as caught:
        read(path, content, name, **options)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("u1,i7,Heat (1995), Crime,4\nu2,i8,Alien (1979), Horror,5\n", "line 2 has 5 fields, the header has 4"),
        ("u1,i1,Heat,4\nu1,i2,Alien\n", "line 3 has 3 fields"),
        ('u1,i1,"He\nat",4\n\nu1,i2,Alien,3,5\n', "line 5 has 5 fields"),
        ('u1,i1,"Heat,4\nu1,i2,Alien,3\n', "line 2: a double quote opens there and never closes"),
        ('u1,i1,"Heat,4\nu1,i2,"Alien",3\n', "line 3"),  # closes at a quote that was meant to open
        ('u1,i1,"Heat"er,4\nu1,i2,Alien,3\n', "line 2"),
        ("u1,i1,Heat,4\nu1,i2,Alien,good\n", "1 of 2 values are not, the first in row 2, such as 'good'"),
        ("", "has a header and no rows"),
    ],
)
def test_rows_that_do_not_fit_the_header(tmp_path: Path, body: str, expected: str) -> None:
    assert expected in message(tmp_path, f"{HEADER}\n{body}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is empty"),
        ("\n\n", "holds no rows"),
        (f"{HEADER},label\nu,i,t,4,4\n", "label more than once"),
        ("User_ID ,item-id,ITEM_TEXT,label\nu,i,t,4\n", "'User_ID ' is user_id, 'item-id' is item_id"),
        ("userId,movieId,rating\n1,2,3\n", "'userId' is user_id"),
        ("1::1193::5::978300760\n1::661::3::978302109\n", "no header: its first line holds 1, 1193, 5, 978300760"),
        (f"{HEADER.replace(',', '~')}\nu~i~t~4\n", "the separator is none of"),
        (f"{HEADER}\nu,i,Café,4\n".encode("cp1252"), "not text in utf-8 (line 2); name its encoding"),
        (f"{HEADER}\nu,i,t,4\n".encode("utf-16-le"), "zero bytes in its first line, as text in UTF-16"),
        (f"sep=;\n{HEADER.replace(',', ';')}\nu;i;t;4\n", "a line for Excel, 'sep='"),
        (f"{HEADER},\nu,i,t,4,oops\n", "column 5 has values and no name"),
        (b"PK\x03\x04....", "zip archive or a spreadsheet"),
        (gzip.compress(f"{HEADER}\n{BODY}".encode() * 99, mtime=0)[:-20], "truncated or damaged"),
        (f"{HEADER}\nu,i,t,\nu,i,t,4\n", "'label' is empty in 1 of 2"),
        (f"{HEADER}\nu,i,,4\nu,i,t,4\n", "'item_text' is empty in 1 of 2"),
    ],
)
def test_files_that_are_told(tmp_path: Path, content: str | bytes, expected: str) -> None:
    found = message(tmp_path, content)
    assert expected in found


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "::"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_separators_and_line_ends_are_found(tmp_path: Path, separator: str, end: str) -> None:
    content = f"{HEADER}\n{BODY}".replace(",", separator).replace("\n", end)
    assert read(tmp_path, content) == ROWS
    assert read(tmp_path, content, "rows.TXT", separator=separator) == ROWS


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings_with_a_mark(tmp_path: Path, encoding: str) -> None:
    text = f"{HEADER}\n{BODY}".replace("Heat", "Amélie “Ж” 🎬")
    assert read(tmp_path, text.encode(encoding))["item_text"] == ["Amélie “Ж” 🎬", "Alien"]


def test_encodings_that_are_named(tmp_path: Path) -> None:
    text = f"{HEADER}\n{BODY}".replace("Heat", "Café")
    for encoding in ("cp1252", "latin-1", "utf-16-le"):
        assert read(tmp_path, text.encode(encoding), encoding=encoding)["item_text"][0] == "Café"
    assert "no encoding 'klingon'" in message(tmp_path, text, encoding="klingon")


def _zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    ("ending", "pack"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress), (".zst", _zstd)]
)
def test_compressed_files(tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]) -> None:
    packed = pack(f"{HEADER}\n{BODY}".encode())
    assert read(tmp_path, packed, f"rows.csv{ending}") == ROWS
    assert read(tmp_path, packed, "rows.CSV") == ROWS  # by content, whatever the name
    lines = '{"user_id": 1, "item_id": 2, "item_text": "t", "label": 3}\n' * 2
    assert read(tmp_path, pack(lines.encode()), f"rows.jsonl{ending}")["user_id"] == ["1", "1"]


def test_the_index_of_pandas_is_left_out(tmp_path: Path) -> None:
    frame = pd.DataFrame(ROWS)
    frame.to_csv(tmp_path / "a.csv")
    pd.read_csv(tmp_path / "a.csv").to_csv(tmp_path / "b.csv")
    for name in ("a.csv", "b.csv"):
        assert load_interactions(tmp_path / name, held_out=0.5)["train"].column_names == list(ROWS)


def test_named_columns(tmp_path: Path) -> None:
    names = ("user_id", "item_id", "item_text", "label")
    assert read(tmp_path, BODY.replace(",", "::"), "ratings.dat", columns=names) == ROWS
    assert "line 1 has 4 fields" in message(tmp_path, BODY, columns=names[:3])
    assert "item_text missing" in message(
        tmp_path, "1::2::5::9\n", columns=("user_id", "item_id", "label", "timestamp")
    )
    with pytest.raises(ConfigurationError, match="'json' has no option 'separator'; its options are encoding"):
        read(tmp_path, '{"user_id": 1}', "rows.json", separator=";")


def test_numbers_as_people_write_them(tmp_path: Path) -> None:
    content = f"{HEADER}\n{BODY}".replace(",", ";").replace("3.5", "3,5")
    assert read(tmp_path, content)["label"] == [4.0, 3.5]
    assert read(tmp_path, f"{HEADER}\nu,i,t,+4\nu,j,t, 5e0 \n")["label"] == [4.0, 5.0]
    assert read(tmp_path, f"{HEADER}\nu,i,t,True\nu,j,t,false\n")["label"] == [1.0, 0.0]
    assert "write thousands without a comma" in message(tmp_path, f'{HEADER}\nu,i,t,"1,000"\nu,i,t,3\n')


def test_quotes_and_newlines_in_cells(tmp_path: Path) -> None:
    titles = ['He said "go", twice', "two\nlines", "two\r\nlines", '"', ";|\t::", " edge ", "NA"]
    frame = pd.DataFrame({"user_id": "u", "item_id": "i", "item_text": titles, "label": 3})
    frame.to_csv(tmp_path / "rows.csv", index=False, lineterminator="\n")
    splits = load_interactions(tmp_path / "rows.csv", held_out=0.5)
    assert [*splits["train"]["item_text"], *splits["validation"]["item_text"]] == titles
    # A quote that encloses nothing is a letter like any other.
    assert read(tmp_path, f'{HEADER}\nu,i,5" disc,4\nu,j,a "b" c,4\n')["item_text"] == ['5" disc', 'a "b" c']


def test_a_fault_after_many_blocks_has_its_line(tmp_path: Path) -> None:
    rows = "".join(f"u{i},i,a title,4\n" for i in range(60_000))
    assert "line 60002 has 5 fields" in message(tmp_path, f"{HEADER}\n{rows}u,i,a, b,4\n")


def test_a_field_of_a_megabyte(tmp_path: Path) -> None:
    content = f'{HEADER}\nu,i,{"a" * 2**20} "quoted",4\nu,j,t,4\n'
    assert len(str(read(tmp_path, content)["item_text"][0])) == 2**20 + 9


def test_errors_are_of_the_kind_for_interactions(tmp_path: Path) -> None:
    with pytest.raises(InteractionsError):
        read(tmp_path, f"{HEADER}\nu,i\n")


@pytest.mark.parametrize("separator", [",", "\t"])
def test_quotes_that_would_join_rows(tmp_path: Path, separator: str) -> None:
    rows = [["u1", "i1", '"Heat', "4"], ["u2", "i2", 'Alien"', "3"], ["u3", "i3", "Up", "5"]]
    content = "\n".join(separator.join(row) for row in [HEADER.split(","), *rows])
    assert "every line by itself has 4 fields" in message(tmp_path, content)


def test_a_text_of_several_lines(tmp_path: Path) -> None:
    assert read(tmp_path, f'{HEADER}\nu,i,"Heat,\nfine",4\n')["item_text"] == ["Heat,\nfine"]


def test_a_first_line_with_a_stray_quote(tmp_path: Path) -> None:
    assert "line 1: a double quote" in message(tmp_path, 'N1\t"Title" one\tx\ty\n', "news.tsv")


@pytest.mark.parametrize("what", [pd.DataFrame({"user_id": ["u\n"]}), [{}], None, 7])
def test_what_is_no_path(what: object) -> None:
    with pytest.raises(ConfigurationError, match=f"from the path of a file or folder, got {type(what).__name__}"):
        load_interactions(what)  # type: ignore[arg-type]


def test_an_address() -> None:
    with pytest.raises(PumaHubError, match=r"https://example.org/a.csv is a URL; download"):
        load_interactions("https://example.org/a.csv")
