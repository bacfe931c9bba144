"""Made data in the exact formats of publishers, with everything that such files hold: faults included."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

MALFORMED: tuple[bytes, ...] = (
    b'{"rating": 5.0, "title": "cut',
    b"not json at all",
    b"[1, 2, 3]",
    b'{"user_id": "\xff\xfe", "business_id": "\xff", "parent_asin": "\xff", "rating": 5, "timestamp": 1, "stars": 5}',
)


def amazon_review(user: str, item: str | None, rating: object, time: object) -> dict[str, Any]:
    return {
        "rating": rating,
        "title": "Five Stars",
        "text": 'Ünïcode, "quotes" and\nline ends <br />',
        "images": [{"small_image_url": "a.jpg", "attachment_type": "IMAGE"}],
        "asin": f"{item}X",
        "parent_asin": item,
        "user_id": user,
        "timestamp": time,
        "helpful_vote": 0,
        "verified_purchase": True,
    }


def amazon_item(item: str, **changes: Any) -> dict[str, Any]:
    record = {
        "main_category": "Movies & TV",
        "title": f"Film  {item} – l'été\n映画",
        "average_rating": 4.3,
        "rating_number": 99,
        "features": [],
        "description": ["A film."],
        "price": None,
        "images": [],
        "videos": [],
        "store": None,
        "categories": ["Movies & TV", "Drama"],
        "details": {"Director": "x"},
        "parent_asin": item,
        "bought_together": None,
    }
    return record | changes


def amazon_records(
    seed: int = 0, users: int = 60, items: int = 30
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Reviews, some repeated, some of one item by one user; and items, some without a title or without a record."""
    generator = np.random.default_rng(seed)
    reviews = []
    for user in range(users):
        for _ in range(int(generator.integers(1, 45))):
            item = int(items * generator.random() ** 2)
            time = 1_500_000_000_000 + int(generator.integers(0, 400)) * 86_400_000
            reviews.append(amazon_review(f"AÜ{user:04d}", f"B{item:05d}", float(generator.integers(1, 6)), time))
    reviews += [dict(review) for review in reviews[::17]]  # repeated
    reviews += [{**review, "timestamp": review["timestamp"] + 1} for review in reviews[::23]]  # once more, later
    generator.shuffle(reviews)  # type: ignore[arg-type]
    records = [amazon_item(f"B{item:05d}") for item in range(items) if item != 2]
    records[0]["title"] = None
    records[4]["title"] = "  "
    del records[6]["title"]
    records[8]["categories"] = None
    records.append({**records[9], "title": "a later record of the same item"})
    return reviews, records


def yelp_review(user: str, business: str, stars: object, date: object) -> dict[str, Any]:
    return {
        "review_id": "r",
        "user_id": user,
        "business_id": business,
        "stars": stars,
        "useful": 0,
        "funny": 0,
        "cool": 0,
        "text": "Très bon",
        "date": date,
    }


def yelp_business(business: str, **changes: Any) -> dict[str, Any]:
    record = {
        "business_id": business,
        "name": f"Café {business}",
        "address": "1 Main St",
        "city": "Tucson",
        "state": "AZ",
        "postal_code": "85711",
        "latitude": 32.2,
        "longitude": -110.8,
        "stars": 3.5,
        "review_count": 22,
        "is_open": 0,
        "attributes": {"ByAppointmentOnly": "True"},
        "categories": ", ".join(f"Kind {number}" for number in range(12)),
        "hours": None,
    }
    return record | changes


def lines_of(records: Sequence[dict[str, Any]], malformed: Sequence[bytes] = (), end: bytes = b"\n") -> bytes:
    """An object a line, the malformed lines spread among them."""
    lines = [json.dumps(record, ensure_ascii=number % 2 == 0).encode() for number, record in enumerate(records)]
    for number, line in enumerate(malformed):
        lines.insert(3 + number * 7, line)
    return end.join(lines) + end


def write_amazon(folder: Path, category: str = "Movies_and_TV", malformed: Sequence[bytes] = ()) -> Path:
    reviews, items = amazon_records()
    for name, records in ((category, reviews), (f"meta_{category}", items)):
        with gzip.open(folder / f"{name}.jsonl.gz", "wb") as file:
            file.write(lines_of(records, malformed))
    return folder


def news_line(news_id: str, title: str) -> str:
    return "\t".join([news_id, "news", "newsus", title, "An abstract.", "https://assets/x.html", "[]", "[]"])


def behavior_line(number: int, user: str, time: str, history: Sequence[str], shown: Sequence[str]) -> str:
    return "\t".join([str(number), user, time, " ".join(history), " ".join(shown)])


MOVIELENS_ITEMS = [
    (1, "Toy Story (1995)", ["Animation", "Children's", "Comedy"]),
    (2, "Misérables, Les (1995)", ["Drama", "Musical"]),
    (3, "Nothing: A (1996)", []),
    (4, "Crossing, The (1994)", ["Sci-Fi"]),
]
COLUMNS = ("userId", "movieId", "rating", "timestamp")
MOVIELENS_FLAGS = [
    "unknown",
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
]


def movielens_ratings(step: float = 1.0, users: int = 12) -> list[tuple[int, int, float, int]]:
    """User, film, rating and time; films 1 to 4, times with ties."""
    generator = np.random.default_rng(3)
    ratings = []
    for user in range(users, 0, -1):
        for film in generator.permutation(4)[: generator.integers(2, 5)] + 1:
            rating = float(generator.integers(1, round(5 / step) + 1)) * step
            ratings.append((user, int(film), rating, 874_000_000 + int(generator.integers(0, 3))))
    return ratings


def movielens_files(release: str, end: str = "\n") -> dict[str, bytes]:
    """The files of a release by name."""

    def table(rows: Iterable[Sequence[object]], separator: str) -> str:
        return "".join(separator.join(map(str, row)) + end for row in rows)

    films = [(number, title, "|".join(kinds)) for number, title, kinds in MOVIELENS_ITEMS]
    if release not in ("ml-100k", "ml-1m"):
        films = [(number, f'"{title}"', kinds or "(no genres listed)") for number, title, kinds in films]
        ratings = [COLUMNS, *movielens_ratings(0.5)]
        return {
            "ratings.csv": table(ratings, ",").encode(),
            "movies.csv": table([("movieId", "title", "genres"), *films], ",").encode(),
        }
    whole = [(user, film, int(rating), time) for user, film, rating, time in movielens_ratings()]
    if release == "ml-1m":
        return {"ratings.dat": table(whole, "::").encode(), "movies.dat": table(films, "::").encode("latin-1")}
    flags = [[int(kind in kinds) for kind in MOVIELENS_FLAGS] for _, _, kinds in MOVIELENS_ITEMS]
    items = [
        (number, title, "01-Jan-1995", "", "http://us.imdb.com/x", *of)
        for (number, title, _), of in zip(MOVIELENS_ITEMS, flags)
    ]
    return {"u.data": table(whole, "\t").encode(), "u.item": table(items, "|").encode("latin-1")}


def write_zip(path: Path, files: dict[str, bytes], inner: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{inner}{name}", content)
    return path


def changed(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Write a file anew, with its content changed."""
    path.write_bytes(change(path.read_bytes()))
