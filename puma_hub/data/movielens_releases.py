"""MovieLens as GroupLens publishes it (Harper and Konstan, 2015): zip archives of text, or the folders in them."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from pyarrow import csv as arrow_csv
from tqdm.auto import tqdm

from puma_hub.data.raw_files import SHOW_AFTER, RawFile, RawRows, require
from puma_hub.data.rows import from_table
from puma_hub.errors import ConfigurationError, InteractionsError

_COLUMNS = ("userId", "movieId", "rating", "timestamp")
_UNIT = "\x1f"  # stands for "::", which no parser takes
_PATTERNS = (r"^\d{1,9}$", r"^\d{1,9}$", r"^\d(\.\d+)?$", r"^\d{1,18}$")
_TYPES = (pa.int32(), pa.int32(), pa.float64(), pa.int64())
_NO_GENRES = "(no genres listed)"
_FIRST_FLAG = 5  # column of u.item
_ROWS = 500_000  # made at once

Movie = tuple[int, str, list[str]]


@dataclass(frozen=True)
class _Layout:
    """Names of a release's files, what stands between their columns, and how its films are read."""

    ratings: str
    movies: str
    separator: str
    read_movies: Callable[[str], Iterator[Movie | None]]


def read_release(folder: str | Path, *, release: str, max_malformed: float = 0.01) -> RawRows:
    """Read a release such as ``ml-25m`` from its zip archive or its folder, in ``folder`` or as ``folder``.

    An item's text is its title and genres. Rows are in the order of user, time and item.

    Args:
        max_malformed: the share of malformed lines in a file that is skipped and counted.

    Raises:
        StorageError: a file is missing or cannot be read.
        ConfigurationError: the folder is that of another release.
        InteractionsError: a file is damaged, or too many lines are malformed.
    """
    layout = _LAYOUTS.get(release, _CSV)
    place = _place(Path(folder), release, layout)
    publisher = f"{release}.zip on the MovieLens page of GroupLens"
    ratings_file, movies_file = require(place, (layout.ratings, layout.movies), publisher)
    counts: dict[str, int] = {}
    texts = _texts(movies_file, layout, counts, max_malformed)
    ratings = _ratings(ratings_file, layout.separator, counts, max_malformed)
    return RawRows(_interactions(ratings, texts, counts), counts)


def _place(folder: Path, release: str, layout: _Layout) -> Path:
    """The archive or folder of the release."""
    for known in _RELEASES:
        if known != release and folder.name.lower() in (known, f"{known}.zip"):
            raise ConfigurationError(f"{folder} is {known}, asked for is {release}; name movielens-{known[3:]}")
    inner, archive = folder / release, folder / f"{release}.zip"
    if inner.is_dir():
        return inner
    return archive if archive.is_file() and not (folder / layout.ratings).is_file() else folder


def _texts(file: RawFile, layout: _Layout, counts: dict[str, int], max_malformed: float) -> dict[int, str]:
    """Texts of films by their id."""
    content = file.read()
    try:
        text = content.decode()
    except UnicodeDecodeError:  # older releases
        text = content.decode("latin-1")
    texts: dict[int, str] = {}
    lines = malformed = 0
    for movie in layout.read_movies(text):
        lines += 1
        if movie is None:
            malformed += 1
            continue
        number, title, genres = movie
        texts[number] = ", ".join([title, *genres])
    counts |= {"movie_lines": lines, "malformed_movie_lines": malformed}
    _check_share(file, malformed, lines, max_malformed)
    return texts


def _movies_of_csv(text: str) -> Iterator[Movie | None]:
    rows = csv.reader(io.StringIO(text, newline=""))
    next(rows, None)  # movieId,title,genres
    for row in rows:
        yield _movie(row) if row else None


def _movies_of_dat(text: str) -> Iterator[Movie | None]:
    for line in filter(None, text.replace("\r\n", "\n").split("\n")):
        yield _movie(line.split("::"))


def _movie(cells: list[str]) -> Movie | None:
    if len(cells) != 3 or not cells[0].isdecimal() or not cells[1].strip():
        return None
    return int(cells[0]), cells[1].strip(), [] if cells[2] == _NO_GENRES else [g for g in cells[2].split("|") if g]


def _movies_of_100k(text: str) -> Iterator[Movie | None]:
    for line in filter(None, text.replace("\r\n", "\n").split("\n")):
        cells = line.split("|")
        flags = cells[_FIRST_FLAG:]
        if len(flags) != len(_GENRES) or not cells[0].isdecimal() or not cells[1].strip():
            yield None
        else:
            yield int(cells[0]), cells[1].strip(), [g for g, flag in zip(_GENRES, flags) if g and flag == "1"]


def _ratings(file: RawFile, separator: str, counts: dict[str, int], max_malformed: float) -> pa.Table:
    """Users, movies, ratings and times as numbers, malformed lines left out."""
    wrong = 0

    def skip(row: object) -> str:
        nonlocal wrong
        wrong += 1
        return "skip"

    batches, lines = [], 0
    bar = tqdm(desc=Path(file.member or file.path).name, total=file.size(), unit="B", unit_scale=True, delay=SHOW_AFTER)
    with bar, file.open(bar.update) as opened:
        try:
            for batch in _open(opened, separator, skip):
                lines += len(batch)
                good = _good(batch)
                columns = [batch.column(name).filter(good).cast(kind) for name, kind in zip(_COLUMNS, _TYPES)]
                batches.append(pa.record_batch(columns, names=_COLUMNS))
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            reason = str(error).splitlines()[0]
            raise InteractionsError(f"{file} is no file of ratings: {reason}; is it as GroupLens has it?") from error
    table = pa.Table.from_batches(batches)
    counts |= {"rating_lines": lines + wrong, "malformed_rating_lines": lines + wrong - len(table)}
    _check_share(file, lines + wrong - len(table), lines + wrong, max_malformed)
    return table


def _open(file: IO[bytes], separator: str, skip: Callable[[object], str]) -> arrow_csv.CSVStreamingReader:
    """The columns as text."""
    if len(separator) > 1:
        file = io.BytesIO(file.read().replace(separator.encode(), _UNIT.encode()))
    names = None if separator == "," else list(_COLUMNS)
    return arrow_csv.open_csv(
        file,
        arrow_csv.ReadOptions(column_names=names, block_size=2**23),
        arrow_csv.ParseOptions(
            delimiter=_UNIT if len(separator) > 1 else separator, quote_char=False, invalid_row_handler=skip
        ),
        arrow_csv.ConvertOptions(
            include_columns=list(_COLUMNS), column_types={name: pa.string() for name in _COLUMNS}, check_utf8=False
        ),
    )


def _good(batch: pa.RecordBatch) -> pa.Array:
    """Mask of the rows whose cells are all numbers."""
    good = pa.array(np.ones(len(batch), dtype=bool))
    for name, pattern in zip(_COLUMNS, _PATTERNS):
        good = pc.and_(good, pc.fill_null(pc.match_substring_regex(batch.column(name), pattern), False))
    return good


def _check_share(file: RawFile, malformed: int, lines: int, max_malformed: float) -> None:
    if not lines:
        raise InteractionsError(f"{file} holds no lines; download it again")
    if malformed > max_malformed * lines:
        raise InteractionsError(
            f"{file}: {malformed} of {lines} lines are malformed, more than the tolerated share "
            f"max_malformed={max_malformed:g}. Is it the file as its publisher has it?"
        )


def _interactions(ratings: pa.Table, texts: dict[int, str], counts: dict[str, int]) -> Dataset:
    user, movie, label, time = (ratings.column(name).to_numpy() for name in _COLUMNS)
    known = np.isin(movie, np.fromiter(texts, np.int64))
    counts["ratings_of_unknown_movies"] = int((~known).sum())
    order = np.lexsort((movie, time, user))
    order = order[known[order]]
    if not len(order):
        raise InteractionsError("no rating is of a film in the file of films; check that the files belong together")
    keys = np.array(sorted(texts), dtype=np.int64)
    names = pa.array([texts[key] for key in keys.tolist()], pa.string())
    parts = [
        pa.table(
            {
                "user_id": pa.array(user[part]).cast(pa.string()),
                "item_id": pa.array(movie[part]).cast(pa.string()),
                "item_text": names.take(pa.array(np.searchsorted(keys, movie[part]))),
                "label": pa.array(label[part]),
                "timestamp": pa.array(time[part]),
            }
        )
        for part in (order[start : start + _ROWS] for start in range(0, len(order), _ROWS))
    ]
    return from_table(pa.concat_tables(parts))


# The flags of u.item in their order; the first is of films whose genre is unknown.
_GENRES = (
    "",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
_CSV = _Layout("ratings.csv", "movies.csv", ",", _movies_of_csv)
_LAYOUTS = {
    "ml-100k": _Layout("u.data", "u.item", "\t", _movies_of_100k),
    "ml-1m": _Layout("ratings.dat", "movies.dat", "::", _movies_of_dat),
}
_RELEASES = ("ml-100k", "ml-1m", "ml-25m", "ml-32m", "ml-latest-small")
