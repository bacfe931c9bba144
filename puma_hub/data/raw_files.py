"""Publishers' raw files: found in a folder or a zip archive, read line by line with a progress bar."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Generic, TypeVar, cast

import datasets
from tqdm.auto import tqdm

from puma_hub.data.file_kinds import COMPRESSED, Watched, open_bytes, plain_name
from puma_hub.errors import ConfigurationError, InteractionsError, StorageError

T = TypeVar("T")

SHOW_AFTER = 2.0  # seconds; what is read sooner needs no progress bar

_ARCHIVES = (".zip", ".tar", ".tgz", ".7z", ".rar")
_BOM = b"\xef\xbb\xbf"
_BUFFER = 2**20
_FIRST_LINES = 1000  # if all of them are malformed, the file is another one


@dataclass(frozen=True)
class RawRows:
    """What a reader of raw files gives.

    Args:
        rows: all interactions, or its splits by name.
        counts: what was found in the files besides, such as malformed lines, by name.
    """

    rows: datasets.Dataset | dict[str, datasets.Dataset]
    counts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class RawFile:
    """A file, possibly compressed, or a member of a zip archive."""

    path: Path
    member: str | None = None

    def __str__(self) -> str:
        return str(self.path) if self.member is None else f"{self.member} in {self.path}"

    @contextmanager
    def open(self, on_read: Callable[[int], object] = lambda count: None) -> Iterator[IO[bytes]]:
        """The file's content without compression; ``on_read`` is told of more bytes that were read.

        Raises:
            StorageError: the file cannot be read.
            InteractionsError: it is empty, cut short or damaged.
        """
        if self.member is None:
            with open_bytes(self.path, on_read) as file:
                yield file
            return
        with open_zip(self.path) as archive, archive.open(self.member) as member:
            try:
                yield io.BufferedReader(Watched(member, on_read), _BUFFER)
            except (zipfile.BadZipFile, EOFError, zlib.error) as error:
                raise InteractionsError(f"{self} is cut short or damaged: {error}; download it again") from error

    def read(self) -> bytes:
        """The whole content, without a byte order mark."""
        with self.open() as file:
            return file.read().removeprefix(_BOM)

    def size(self) -> int:
        """Bytes in all that :meth:`open` tells of."""
        if self.member is None:
            return self.path.stat().st_size
        with open_zip(self.path) as archive:
            return archive.getinfo(self.member).file_size

    def lines(self) -> Iterator[bytes]:
        """The lines without their ends and without a byte order mark, with a progress bar on standard error."""
        name = Path(self.member or self.path).name
        with (
            tqdm(desc=name, total=self.size(), unit="B", unit_scale=True, delay=SHOW_AFTER) as bar,
            self.open(bar.update) as file,
            io.BufferedReader(cast(io.RawIOBase, file), _BUFFER) as buffered,
        ):
            for number, line in enumerate(buffered):
                yield (line if number else line.removeprefix(_BOM)).rstrip(b"\r\n")


class RawLines(Generic[T]):
    """The lines of a file, parsed; malformed ones are counted and skipped.

    Args:
        parse: gives what a line holds, and raises ValueError for one that is malformed.
        max_malformed: the share of malformed lines that is tolerated.
    """

    def __init__(self, file: RawFile, parse: Callable[[bytes], T], max_malformed: float) -> None:
        if not 0.0 <= max_malformed <= 1.0:
            raise ConfigurationError(f"max_malformed must lie between 0 and 1, got {max_malformed}")
        self.file, self.parse, self.max_malformed = file, parse, max_malformed
        self.lines = self.malformed = 0

    def __iter__(self) -> Iterator[tuple[int, T]]:
        """The number of each good line, from 0, and what it holds.

        Raises:
            InteractionsError: more lines are malformed than are tolerated, or there are none.
        """
        self.lines = self.malformed = 0
        first: tuple[int, Exception] | None = None
        parse = self.parse
        for number, line in enumerate(self.file.lines()):
            if not line or line.isspace():
                continue
            self.lines += 1
            try:
                parsed = parse(line)
            except (ValueError, RecursionError) as error:
                self.malformed += 1
                first = first or (number, error)
                if self.malformed == self.lines == _FIRST_LINES:
                    break
                continue
            yield number, parsed
        if first is not None and self.malformed > self.max_malformed * self.lines:
            raise InteractionsError(
                f"{self.file}: {self.malformed} of {self.lines} lines are malformed, more than the tolerated share "
                f"max_malformed={self.max_malformed:g}; the first is line {first[0] + 1}: {_reason(first[1])}. Is it "
                "the file as its publisher has it?"
            )
        if not self.lines:
            raise InteractionsError(f"{self.file} holds no lines; download it again")


def _reason(error: Exception) -> str:
    """What is wrong with a line, without what it holds."""
    if isinstance(error, UnicodeError):
        return "it is not text in UTF-8"
    return str(error)


@contextmanager
def open_zip(path: Path) -> Iterator[zipfile.ZipFile]:
    """The archive.

    Raises:
        StorageError: it cannot be read, or is no zip archive.
    """
    try:
        archive = zipfile.ZipFile(path)
    except zipfile.BadZipFile as error:
        raise StorageError(f"{path} is no zip archive, or is cut short; download it again") from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    with archive:
        yield archive


def find(place: Path, name: str) -> RawFile | None:
    """The file ``name``, or ``name`` with the ending of a compressed file, in a place; None if it is not there.

    Args:
        place: a folder, in which it may lie up to two folders deep; a zip archive; or one of the files of a data set,
            beside which it lies.
    """
    if place.is_file() and place.suffix.lower() == ".zip":
        with open_zip(place) as archive:
            members = [member for member in archive.namelist() if member.rpartition("/")[2] == name]
        ours = [member for member in members if not member.startswith("__MACOSX/")]
        return RawFile(place, min(ours, key=len)) if ours else None
    if place.is_file():
        return RawFile(place) if plain_name(place).name == name else find(place.parent, name)
    for depth in ("", "*/", "*/*/"):
        for ending in ("", *COMPRESSED):
            found = sorted(path for path in place.glob(f"{depth}{name}{ending}") if path.is_file())
            if found:
                return RawFile(found[0])
    return None


def require(place: Path, names: Sequence[str], publisher: str) -> list[RawFile]:
    """The files ``names``, as :func:`find` finds them.

    Args:
        publisher: who has the files, in words, for the message.

    Raises:
        StorageError: some are missing; the message names them and says where they are to be had.
    """
    found = {name: find(place, name) for name in names}
    missing = [name for name, file in found.items() if file is None]
    if not missing:
        return [file for file in found.values() if file is not None]
    if not place.exists():
        what = f"there is no {place}"
    else:
        has = [name for name in names if name not in missing]
        what = f"{place} has {' and '.join(has)}, but not" if has else f"{place} lacks"
        what = f"{what} {' and '.join(missing)}"
    raise StorageError(
        f"{what}; needed are {' and '.join(names)} from {publisher}. Name their folder with folder= (--folder), or put "
        f"them there{_to_unpack(place)}"
    )


def _to_unpack(place: Path) -> str:
    """A hint at archives, which may hold what is missing."""
    paths = sorted(place.iterdir()) if place.is_dir() else [place] if place.suffix.lower() != ".zip" else []
    archives = [path.name for path in paths if path.suffix.lower() in _ARCHIVES or path.name.endswith(".tar.gz")]
    return f"; unpack {', '.join(archives[:3])} if they are in it" if archives else ""
