"""Transfer of files: downloads with ranges, LFS uploads, commits."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import Any
from urllib.parse import quote

from tests.hub_server import metadata
from tests.hub_server.accounts import require_content, require_write
from tests.hub_server.errors import HubError, revision_not_found
from tests.hub_server.state import Call, Reply, answer
from tests.hub_server.storage import Blob, Repository, upload_mode

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")


def resolve(call: Call, repository: Repository, revision: str, path: str) -> Reply:
    """A file's content, or the part given by the Range header. HEAD gets the headers only."""
    call.record.repo, call.record.filename = repository.id, path
    require_content(call.caller, repository)
    commit = repository.resolve(revision)
    headers = {"X-Repo-Commit": commit.oid}
    blob = commit.tree.get(path)
    if blob is None:
        raise HubError(404, "Entry not found", code="EntryNotFound", headers=headers)
    size = len(blob.content)
    headers |= {"ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if blob.lfs:
        headers |= {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(size)}
    if call.method == "HEAD":
        return Reply(headers=headers, length=size)
    return partial(call, blob.content, headers)


def partial(call: Call, content: bytes, headers: dict[str, str]) -> Reply:
    """A content, or the part of it given by the Range header."""
    size = len(content)
    if call.tamper is not None:
        content = call.tamper(content)
    if call.record.range is None:
        return Reply(body=content, headers=headers)
    start, end = _span(call.record.range, size)
    return Reply(206, content[start:end], {**headers, "Content-Range": f"bytes {start}-{end - 1}/{size}"})


def _span(header: str, size: int) -> tuple[int, int]:
    found = _RANGE.fullmatch(header)
    if found is None or not any(found.groups()):
        raise HubError(400, f"Invalid range {header!r}")
    first, last = found.groups()
    start = int(first) if first else max(0, size - int(last))
    end = min(size, int(last) + 1) if first and last else size
    if start >= end:
        raise HubError(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return start, end


def preupload(call: Call, repository: Repository, revision: str) -> Reply:
    """For each file: whether it goes through LFS, and its present object id."""
    require_write(call.caller, repository.namespace)
    tree = repository.resolve(revision).tree
    files = []
    for file in call.json()["files"]:
        path = file["path"]
        mode = upload_mode(path, file["size"], base64.b64decode(file["sample"]))
        entry = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        if path in tree:
            entry["oid"] = tree[path].etag
        files.append(entry)
    return answer({"files": files})


def lfs_batch(call: Call, repository: Repository) -> Reply:
    """The upload addresses of objects that the repository does not have yet."""
    require_write(call.caller, repository.namespace)
    objects = []
    for wanted in call.json()["objects"]:
        entry: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
        if wanted["oid"] not in repository.objects:
            where = f"{call.state.endpoint}/lfs-objects/{repository.type}s/{quote(repository.id)}/{wanted['oid']}"
            entry["actions"] = {"upload": {"href": where, "header": {}}}
        objects.append(entry)
    return answer({"transfer": "basic", "objects": objects})


def lfs_put(call: Call, repository: Repository, sha256: str) -> Reply:
    """Store an object. As in the Hub's storage, whoever has the address may write to it."""
    if hashlib.sha256(call.body).hexdigest() != sha256:
        raise HubError(400, f"The content does not have the SHA-256 {sha256}")
    repository.objects[sha256] = call.body
    return Reply()


def commit(call: Call, repository: Repository, branch: str) -> Reply:
    """Make one commit of all operations, or none."""
    require_write(call.caller, repository.namespace)
    if branch not in repository.branches:
        raise revision_not_found(branch)
    if "create_pr" in call.query:
        raise HubError(400, "Pull requests are not supported by this server")
    lines = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    header = next((line["value"] for line in lines if line["key"] == "header"), None)
    if header is None or not header.get("summary"):
        raise HubError(400, "A commit needs a summary")
    head = repository.head(branch)
    if header.get("parentCommit", head) != head:
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    tree = dict(repository.resolve(branch).tree)
    for line in lines:
        if line["key"] != "header":
            _apply(repository, tree, line["key"], line["value"])
    if any(line["value"].get("path") == "README.md" for line in lines) and "README.md" in tree:
        errors, _ = metadata.check(tree["README.md"].content.decode())
        if errors:
            raise HubError(400, "Invalid metadata in README.md: " + "; ".join(errors))
    made = repository.commit_tree(
        tree, header["summary"], message=header.get("description", ""), author=call.caller.user or "", branch=branch
    )
    url = f"{call.state.url(repository.type, repository.id)}/commit/{made.oid}"
    return answer({"success": True, "commitOid": made.oid, "commitUrl": url, "hookOutput": ""})


def _apply(repository: Repository, tree: dict[str, Blob], kind: str, value: dict[str, Any]) -> None:
    path = value["path"]
    if kind == "file":
        tree[path] = Blob(base64.b64decode(value["content"]), lfs=False)
    elif kind == "lfsFile":
        if value["oid"] not in repository.objects:
            raise HubError(400, f"The LFS object of {path} was not uploaded")
        tree[path] = Blob(repository.objects[value["oid"]], lfs=True)
    elif kind == "deletedFile":
        _remove(tree, path, [path] if path in tree else [])
    elif kind == "deletedFolder":
        _remove(tree, path, [name for name in tree if name.startswith(path.rstrip("/") + "/")])
    else:
        raise HubError(400, f"Unknown operation {kind!r}")


def _remove(tree: dict[str, Blob], path: str, names: list[str]) -> None:
    if not names:
        raise HubError(404, f"{path} does not exist", code="EntryNotFound")
    for name in names:
        del tree[name]
