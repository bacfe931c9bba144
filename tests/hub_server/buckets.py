"""Requests about buckets. The contents of their files go through :mod:`tests.hub_server.xet`."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote, unquote

from tests.hub_server import accounts, listing, xet
from tests.hub_server.content import partial
from tests.hub_server.errors import HubError
from tests.hub_server.state import Call, Reply, answer
from tests.hub_server.storage import Bucket, BucketFile, as_text

_ID = r"(?P<id>[^/]+/[^/]+)"
_API = re.compile(rf"/api/buckets/{_ID}(?:/(?P<action>[^/]+)(?:/(?P<rest>.*))?)?")
_RESOLVE = re.compile(rf"/buckets/{_ID}/resolve/(?P<file>.+)")


def dispatch(call: Call) -> Reply:
    """The answer to a request about a bucket; raises :class:`HubError`."""
    if found := _RESOLVE.fullmatch(call.path):
        return _resolve(call, _readable(call, unquote(found["id"])), unquote(found["file"]))
    if found := _API.fullmatch(call.path):
        name, action, rest = unquote(found["id"]), found["action"], unquote(found["rest"] or "")
        if (call.method, action) == ("POST", None):
            return _create(call, name)
        handler = _ACTIONS.get((call.method, action))
        if handler is not None:
            return handler(call, _readable(call, name), *([rest] if rest else []))
    raise HubError(404, f"Cannot {call.method} {call.path}")


def _readable(call: Call, name: str) -> Bucket:
    return accounts.require_read(call.caller, call.state.buckets.get(name.lower()))


def _create(call: Call, name: str) -> Reply:
    if name.startswith("me/"):
        name = f"{call.caller.user}/{name[3:]}"
    accounts.require_write(call.caller, name.split("/")[0])
    existing = call.state.buckets.get(name.lower())
    url: dict[str, object] = {"url": f"{call.state.endpoint}/buckets/{existing.id if existing else name}"}
    if existing is not None:
        raise HubError(409, "You already created this bucket", body=url)
    asked = call.json()
    private = asked.get("private") is True or asked.get("visibility") == "private"  # the first from clients up to 2.0
    call.state.buckets[name.lower()] = Bucket(name, call.state.xet, private=private)
    return answer(url)


def _info(call: Call, bucket: Bucket) -> Reply:
    size = sum(map(bucket.size, bucket.entries))
    facts = {"id": bucket.id, "private": bucket.private, "createdAt": bucket.created_at}
    return answer({**facts, "size": size, "totalFiles": len(bucket.entries)})


def _delete(call: Call, bucket: Bucket) -> Reply:
    accounts.require_write(call.caller, bucket.namespace)
    del call.state.buckets[bucket.id.lower()]
    return answer({})


def _settings(call: Call, bucket: Bucket) -> Reply:
    accounts.require_write(call.caller, bucket.namespace)
    bucket.private = call.json()["private"]
    return answer({})


def _tree(call: Call, bucket: Bucket, prefix: str = "") -> Reply:
    """All that begins with the prefix, as text: for ``logs`` also ``logs.json``."""
    entries: dict[str, dict[str, Any]] = {}
    for path in sorted(bucket.entries):
        if not path.startswith(prefix):
            continue
        rest = path[len(prefix) :].lstrip("/")
        if "/" in rest and not listing.flag(call.query, "recursive"):
            folder = path[: len(path) - len(rest)] + rest.split("/")[0]
            entries[folder] = {"type": "directory", "path": folder, "uploadedAt": bucket.entries[path].uploaded_at}
        else:
            entries[path] = _entry(bucket, path)
    return listing.paged(call, list(entries.values()))


def _paths(call: Call, bucket: Bucket) -> Reply:
    return answer([_entry(bucket, path) for path in call.json()["paths"] if path in bucket.entries])


def _entry(bucket: Bucket, path: str) -> dict[str, Any]:
    file = bucket.entries[path]
    facts = {"type": "file", "path": path, "size": bucket.size(path), "xetHash": file.xet_hash}
    return {**facts, "mtime": file.mtime, "uploadedAt": file.uploaded_at}


def _batch(call: Call, bucket: Bucket) -> Reply:
    """Each operation by itself: some may fail while the others are done."""
    accounts.require_write(call.caller, bucket.namespace)
    operations = [json.loads(line) for line in call.body.splitlines()]
    failed = []
    for operation in operations:
        path, known = operation["path"], operation.get("xetHash") in call.state.xet.files
        if operation["type"] == "deleteFile":
            bucket.entries.pop(path, None)
        elif operation["type"] == "addFile" and known:
            changed = datetime.fromtimestamp(operation["mtime"] / 1000, timezone.utc)
            bucket.entries[path] = BucketFile(operation["xetHash"], as_text(changed))
        else:
            failed.append({"path": path, "error": "no such content"})
    return answer({"success": not failed, "failed": failed}, 422 if failed and len(failed) == len(operations) else 200)


def _resolve(call: Call, bucket: Bucket, path: str) -> Reply:
    call.record.repo, call.record.filename = bucket.id, path
    if path not in bucket.entries:
        raise HubError(404, "Entry not found", code="EntryNotFound")
    file, size = bucket.entries[path].xet_hash, bucket.size(path)
    route = f"{call.state.endpoint}/api/buckets/{quote(bucket.id)}/xet-read-token"
    headers = {"X-Xet-Hash": file, "X-Xet-Refresh-Route": route, "X-Linked-Size": str(size), "ETag": f'"{file}"'}
    if call.method == "HEAD":
        return Reply(headers=headers, length=size)
    return partial(call, call.state.xet.content(file), headers)


def _read_token(call: Call, bucket: Bucket) -> Reply:
    return xet.connection(call, "read")


def _write_token(call: Call, bucket: Bucket) -> Reply:
    accounts.require_write(call.caller, bucket.namespace)
    return xet.connection(call, "write")


_ACTIONS: dict[tuple[str, str | None], Callable[..., Reply]] = {
    ("GET", None): _info,
    ("DELETE", None): _delete,
    ("PUT", "settings"): _settings,
    ("GET", "tree"): _tree,
    ("POST", "paths-info"): _paths,
    ("POST", "batch"): _batch,
    ("GET", "xet-read-token"): _read_token,
    ("GET", "xet-write-token"): _write_token,
}
