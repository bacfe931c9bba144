"""Requests to the storage behind buckets. Newer forms of a request are unknown here (404); the client then uses these.

``POST /xet/v1/xorbs/default/HASH``, ``POST /xet/v1/shards``, ``GET /xet/v1/reconstructions/HASH`` with a token from
``/api/buckets/ID/xet-{read,write}-token``; ``GET /xet-data/HASH``, an address that itself gives the right.
"""

from __future__ import annotations

import re
import time
from typing import Any

from tests.hub_server import accounts
from tests.hub_server.content import partial
from tests.hub_server.errors import HubError
from tests.hub_server.state import Call, Reply, answer

_HASH = "(?P<hash>[0-9a-f]{64})"
_XORB = re.compile(f"/xet/v1/xorbs/default/{_HASH}")
_FILE = re.compile(f"/xet/v1/reconstructions/{_HASH}")
_DATA = re.compile(f"/xet-data/{_HASH}")
_LIFETIME = 3600


def connection(call: Call, right: str) -> Reply:
    """A token for the storage, and the storage's address."""
    token, expires = accounts.storage_token(call.caller, right), int(time.time()) + _LIFETIME
    where = f"{call.state.endpoint}/xet"
    headers = {"X-Xet-Cas-Url": where, "X-Xet-Access-Token": token, "X-Xet-Token-Expiration": str(expires)}
    return answer({"accessToken": token, "exp": expires, "casUrl": where}, headers=headers)


def dispatch(call: Call) -> Reply:
    """The answer to a request to the storage; raises :class:`HubError`."""
    store = call.state.xet
    if found := _DATA.fullmatch(call.path):
        return partial(call, store.xorbs[found["hash"]], {})
    if call.method == "POST" and call.caller.right != "write":
        raise HubError(403, "This token only reads")
    if call.method == "POST" and (found := _XORB.fullmatch(call.path)):
        new = found["hash"] not in store.xorbs
        store.xorbs[found["hash"]] = call.body
        return answer({"was_inserted": new})
    if call.method == "POST" and call.path == "/xet/v1/shards":
        store.add_shard(call.body)
        return answer({"result": 1})
    if call.method == "GET" and (found := _FILE.fullmatch(call.path)) and found["hash"] in store.files:
        return _reconstruction(call, found["hash"])
    raise HubError(404, f"Cannot {call.method} {call.path}")


def _reconstruction(call: Call, file: str) -> Reply:
    """The parts of a file from the first wanted byte on, and where each can be read."""
    store = call.state.xet
    skipped = int((call.record.range or "bytes=0-").removeprefix("bytes=").split("-")[0])
    if skipped >= store.size(file):
        raise HubError(416, "Range not satisfiable")
    terms: list[dict[str, Any]] = []
    used: dict[str, set[int]] = {}
    for part in store.files[file]:
        if not terms and skipped >= part.length:
            skipped -= part.length
            continue
        chunks = {"start": part.start, "end": part.end}
        terms.append({"hash": part.xorb, "unpacked_length": part.length, "range": chunks})
        used.setdefault(part.xorb, set()).update(range(part.start, part.end))
    places = {xorb: [_place(call, xorb, *run) for run in _runs(numbers)] for xorb, numbers in used.items()}
    return answer({"offset_into_first_range": skipped, "terms": terms, "fetch_info": places})


def _runs(numbers: set[int]) -> list[tuple[int, int]]:
    """The numbers as ranges that neither touch nor overlap, although the parts of a file may."""
    starts = sorted(number for number in numbers if number - 1 not in numbers)
    ends = sorted(number + 1 for number in numbers if number + 1 not in numbers)
    return list(zip(starts, ends))


def _place(call: Call, xorb: str, start: int, end: int) -> dict[str, Any]:
    """Where the chunks ``start`` to ``end`` of a xorb can be read."""
    bounds = call.state.xet.bounds(xorb, start, end)
    span = {"start": bounds[0][0], "end": bounds[-1][1] - 1}
    where = f"{call.state.endpoint}/xet-data/{xorb}"
    return {"range": {"start": start, "end": end}, "url": where, "url_range": span}
