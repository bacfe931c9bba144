"""Listings of repositories, files and commits, in pages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlencode

from tests.hub_server import metadata
from tests.hub_server.errors import HubError
from tests.hub_server.state import Call, Reply, answer
from tests.hub_server.storage import MAIN, Blob, Commit, Repository

Query = Mapping[str, list[str]]

_LISTED = "_id id modelId private gated likes downloads trendingScore tags pipeline_tag library_name createdAt"
_SHORT = _LISTED.split()  # what a list shows by default
_FULL = [*_SHORT, "author", "sha", "lastModified", "disabled", "siblings"]
_NOT_MODELLED = (
    "childrenModelCount citation description evalResults gguf inference inferenceProviderMapping mainSize mask_token"
    " paperswithcode_id resourceGroup safetensors securityRepoStatus spaces transformersInfo widgetData"
)
_EMPTY = set(_NOT_MODELLED.split())  # may be requested, but are always empty here
_SORTS = ("createdAt", "lastModified", "downloads", "likes", "trendingScore")


def flag(query: Query, name: str) -> bool:
    return query.get(name, ["false"])[0].lower() in ("true", "1")


def paged(call: Call, entries: list[Any], size: int | None = None) -> Reply:
    """One page of the entries, with the address of the next. ``limit`` can only make pages smaller."""
    size = min(
        size or call.state.page_size, call.state.page_size, int(call.query.get("limit", [call.state.page_size])[0])
    )
    start = int(call.query.get("cursor", ["0"])[0])
    headers = {}
    if start + size < len(entries):
        query = urlencode({**call.query, "cursor": start + size}, doseq=True)
        headers["Link"] = f'<{call.state.endpoint}{call.path}?{query}>; rel="next"'
    return answer(entries[start : start + size], headers=headers)


def repositories(found: Iterable[Repository], query: Query) -> list[dict[str, Any]]:
    """The repositories that fit all filters, as the Hub lists them."""
    wanted = query.get("filter", [])
    matching = []
    for repository in found:
        facts = metadata.describe(repository, repository.resolve(MAIN))
        name = repository.id.lower()
        if (
            all(tag in facts["tags"] for tag in wanted)
            and all(facts["author"] == author for author in query.get("author", []))
            and all(text.lower() in name for text in query.get("search", []))
            and all(facts["pipeline_tag"] == tag for tag in query.get("pipeline_tag", []))
            and ("gated" not in query or bool(facts["gated"]) == flag(query, "gated"))
        ):
            matching.append(facts)
    sort = query.get("sort", ["trendingScore"])[0]
    if sort not in _SORTS:
        raise HubError(400, f"Invalid sort parameter {sort!r}")
    matching.sort(key=lambda facts: (facts[sort], facts["createdAt"]), reverse=True)
    return [choose(facts, query, listed=True) for facts in matching]


def choose(facts: dict[str, Any], query: Query, *, listed: bool = False) -> dict[str, Any]:
    """The requested part of the facts: ``expand``, ``full``, ``cardData`` and ``config``."""
    if "expand" in query:
        unknown = [name for name in query["expand"] if name not in facts and name not in _EMPTY]
        if unknown:
            raise HubError(400, f'"expand" does not know {unknown}')
        keys = ["_id", "id", *query["expand"]]
    elif not listed:
        keys = [key for key in facts if key != "baseModels"]
    else:
        keys = list(_FULL if flag(query, "full") else _SHORT)
        keys += [key for key in ("cardData", "config") if flag(query, key)]
        keys += ["cardData"] if flag(query, "full") and "modelId" not in facts else []  # data sets
    return {key: facts[key] for key in keys if facts.get(key) is not None}


def tree(commit: Commit, folder: str, *, recursive: bool, expand: bool) -> list[dict[str, Any]]:
    """The files and folders in a folder."""
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in sorted(commit.tree.items()):
        if not path.startswith(prefix):
            continue
        parts = path[len(prefix) :].split("/")
        for depth in range(1, len(parts) if recursive else min(2, len(parts))):
            name = prefix + "/".join(parts[:depth])
            entries[name] = _entry(commit, name, None, expand)
        if recursive or len(parts) == 1:
            entries[path] = _entry(commit, path, blob, expand)
    if folder and not entries:
        raise HubError(
            404,
            f"{folder} does not exist on this revision",
            code="EntryNotFound",
            headers={"X-Repo-Commit": commit.oid},
        )
    return list(entries.values())


def paths(commit: Commit, names: list[str], *, expand: bool) -> list[dict[str, Any]]:
    """The entries at these paths, without paths that do not exist."""
    found = []
    for name in names:
        if name in commit.tree:
            found.append(_entry(commit, name, commit.tree[name], expand))
        elif any(path.startswith(f"{name}/") for path in commit.tree):
            found.append(_entry(commit, name, None, expand))
    return found


def commits(history: list[Commit], formatted: bool) -> list[dict[str, Any]]:
    entries = []
    for commit in history:
        entry: dict[str, Any] = {
            "id": commit.oid,
            "title": commit.title,
            "message": commit.message,
            "date": commit.date,
            "authors": [{"user": commit.author}],
        }
        if formatted:
            entry["formatted"] = {"title": commit.title, "message": commit.message}
        entries.append(entry)
    return entries


def lfs_files(repository: Repository) -> list[dict[str, Any]]:
    """All LFS objects of a repository, including those that only older commits use."""
    entries = {}
    for commit in repository.commits.values():
        for path, blob in commit.tree.items():
            if blob.lfs and blob.sha256 in repository.objects:
                entries[blob.sha256] = {
                    "fileOid": blob.sha256,
                    "oid": blob.sha256,
                    "filename": path,
                    "pushedAt": commit.date,
                    "size": len(blob.content),
                }
    return list(entries.values())


def _entry(commit: Commit, path: str, blob: Blob | None, expand: bool) -> dict[str, Any]:
    if blob is None:
        entry: dict[str, Any] = {"type": "directory", "oid": commit.oid, "size": 0, "path": path}
    else:
        entry = {"type": "file", "oid": blob.oid, "size": len(blob.content), "path": path}
        if blob.lfs:
            entry["lfs"] = {"oid": blob.sha256, "size": len(blob.content), "pointerSize": len(blob.pointer)}
    if expand:
        entry["lastCommit"] = {"id": commit.oid, "title": commit.title, "date": commit.date}
    return entry
