"""What lies behind buckets: xorbs of packed chunks, and files as sequences of chunks (the published Xet formats)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from tests.hub_server.errors import HubError

_ENTRY = 48
_TAG = b"HFRepoMetaData"
_VERIFIED, _WITH_METADATA = 1 << 31, 1 << 30  # flags of a file: what follows its parts
_LZ4, _GROUPED_LZ4 = 1, 2
_CHUNK_HEADER = 8


@dataclass(frozen=True)
class Part:
    """A part of a file: the chunks ``start`` to ``end`` of a xorb, and their length when unpacked."""

    xorb: str
    start: int
    end: int
    length: int


@dataclass
class XetStore:
    """Xorbs and files by their hashes. They outlast a test: the client remembers what it has sent."""

    xorbs: dict[str, bytes] = field(default_factory=dict)
    files: dict[str, list[Part]] = field(default_factory=dict)

    def size(self, file: str) -> int:
        return sum(part.length for part in self.files[file])

    def content(self, file: str) -> bytes:
        chunks = []
        for part in self.files[file]:
            for start, end in self.bounds(part.xorb, part.start, part.end):
                chunks.append(_unpacked(self.xorbs[part.xorb][start:end]))
        return b"".join(chunks)

    def bounds(self, xorb: str, first: int, last: int) -> list[tuple[int, int]]:
        """Where each of the chunks ``first`` to ``last`` of a xorb, with its header, begins and ends."""
        return _chunks(self.xorbs[xorb])[first:last]

    def add_shard(self, shard: bytes) -> None:
        """Take the files of a shard, all of whose xorbs must be here."""
        if not shard.startswith(_TAG):
            raise HubError(400, "This is no shard")
        found: dict[str, list[Part]] = {}
        entries = _entries(shard)
        while (head := next(entries))[:32] != b"\xff" * 32:
            flags, number = struct.unpack("<II", head[32:40])
            found[_hex(head)] = [_part(next(entries)) for _ in range(number)]
            for _ in range(number * bool(flags & _VERIFIED) + bool(flags & _WITH_METADATA)):
                next(entries)
        missing = {part.xorb for file in found.values() for part in file} - set(self.xorbs)
        if missing:
            raise HubError(400, f"{len(missing)} xorbs of the shard were not uploaded")
        self.files.update(found)


def _entries(shard: bytes) -> Iterator[bytes]:
    for start in range(_ENTRY, len(shard), _ENTRY):  # the header is as long as an entry
        yield shard[start : start + _ENTRY]


def _part(entry: bytes) -> Part:
    length, start, end = struct.unpack("<III", entry[36:48])
    return Part(_hex(entry), start, end, length)


def _hex(entry: bytes) -> str:
    """The hash an entry begins with, as text: four little-endian numbers."""
    return "".join(f"{number:016x}" for number in struct.unpack("<QQQQ", entry[:32]))


def _chunks(xorb: bytes) -> list[tuple[int, int]]:
    """Where each chunk begins and ends. What may follow the last one is a footer, which is not a chunk's header."""
    found, start = [], 0
    while start < len(xorb) and xorb[start] == 0:
        end = start + _CHUNK_HEADER + int.from_bytes(xorb[start + 1 : start + 4], "little")
        found.append((start, end))
        start = end
    return found


def _unpacked(chunk: bytes) -> bytes:
    scheme, size, data = chunk[4], int.from_bytes(chunk[5:8], "little"), chunk[_CHUNK_HEADER:]
    if scheme in (_LZ4, _GROUPED_LZ4):
        data = pa.Codec("lz4").decompress(data, size, asbytes=True)
    if scheme != _GROUPED_LZ4:
        return data
    grouped, whole, start = np.frombuffer(data, np.uint8), np.empty(size, np.uint8), 0
    for place in range(4):  # the first bytes of all groups of four, then the second ones, ...
        length = len(range(place, size, 4))
        whole[place::4] = grouped[start : start + length]
        start += length
    return whole.tobytes()
