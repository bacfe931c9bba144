"""Routing: the handler of each request."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import parse_qs, unquote

from tests.hub_server import accounts, buckets, content, listing, metadata, xet
from tests.hub_server.errors import HubError, revision_not_found
from tests.hub_server.listing import paged as _paged
from tests.hub_server.state import Call, Reply, answer
from tests.hub_server.storage import MAIN, Repository

_NAME = re.compile(r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?")
_ACTIONS = (
    "revision|tree|paths-info|preupload|commit|commits|refs|branch|tag|settings|super-squash|lfs-files|auth-check"
    "|user-access-request|discussions|safetensors-metadata"
)
_REPO = r"(?P<id>[^/]+(?:/[^/]+)?)"
# Non-greedy id: "gpt2/tree/main" is not a repository "gpt2/tree".
_API = re.compile(
    rf"/api/(?P<type>model|dataset)s/(?P<id>[^/]+(?:/[^/]+)??)(?:/(?P<action>{_ACTIONS})(?:/(?P<rest>.*))?)?"
)
_RESOLVE = re.compile(rf"/(?:(?P<type>dataset)s/)?{_REPO}/resolve/(?P<revision>[^/]+)/(?P<file>.+)")
_BATCH = re.compile(rf"/(?:(?P<type>dataset)s/)?{_REPO}\.git/info/lfs/objects/batch")
_OBJECT = re.compile(rf"/lfs-objects/(?P<type>model|dataset)s/{_REPO}/(?P<sha>[0-9a-f]{{64}})")


def dispatch(call: Call) -> Reply:
    """The answer to a request; raises :class:`HubError`."""
    fixed = _FIXED_PATHS.get((call.method, call.path))
    if fixed is not None:
        return fixed(call)
    if call.path.startswith(("/buckets/", "/api/buckets/")):
        return buckets.dispatch(call)
    if call.path.startswith(("/xet/", "/xet-data/")):
        return xet.dispatch(call)
    if found := _RESOLVE.fullmatch(call.path):
        repository = _readable(call, found["type"] or "model", unquote(found["id"]))
        return content.resolve(call, repository, unquote(found["revision"]), unquote(found["file"]))
    if found := _BATCH.fullmatch(call.path):
        return content.lfs_batch(call, _readable(call, found["type"] or "model", unquote(found["id"])))
    if found := _OBJECT.fullmatch(call.path):
        stored = call.state.find(found["type"], unquote(found["id"]))
        if stored is not None and call.method == "PUT":
            return content.lfs_put(call, stored, found["sha"])
    elif found := _API.fullmatch(call.path):
        repository = _readable(call, found["type"], unquote(found["id"]))
        rest = [unquote(part) for part in (found["rest"] or "").split("/")] if found["rest"] else []
        if found["action"] == "tree":  # clients may percent-encode the slashes of a path
            rest = [rest[0], "/".join(rest[1:])]
        handler = _REPOSITORY_ACTIONS.get((call.method, found["action"]))
        if handler is not None:
            return handler(call, repository, *rest)
    raise HubError(404, f"Cannot {call.method} {call.path}")


def _readable(call: Call, repo_type: str, repo_id: str) -> Repository:
    return accounts.require_read(call.caller, call.state.find(repo_type, repo_id))


def _writable(call: Call, repository: Repository) -> None:
    accounts.require_write(call.caller, repository.namespace)


# Requests without a repository in the path


def _whoami(call: Call) -> Reply:
    return answer(accounts.describe(call.caller))


def _validate_yaml(call: Call) -> Reply:
    errors, warnings = metadata.check(call.json().get("content", ""))
    body = {"errors": [{"message": text} for text in errors], "warnings": [{"message": text} for text in warnings]}
    return answer(body, 400 if errors else 200)


def _repository_in_body(call: Call) -> tuple[str, str]:
    """The type and id of the repository in the request's body."""
    body = call.json()
    name, namespace = body.get("name") or "", body.get("organization") or call.caller.user or ""
    repo_type = body.get("type") or "model"
    if repo_type not in ("model", "dataset"):
        raise HubError(400, f"Repositories of type {repo_type!r} are not supported by this server")
    if not _NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith(".git"):
        raise HubError(400, f"Invalid repository name {name!r}")
    return repo_type, f"{namespace}/{name}"


def _create(call: Call) -> Reply:
    if call.caller.user is None:
        raise HubError(401, "Invalid username or password.")
    repo_type, repo_id = _repository_in_body(call)
    accounts.require_write(call.caller, repo_id.split("/")[0])
    existing = call.state.find(repo_type, repo_id)
    url = {"url": call.state.url(repo_type, existing.id if existing else repo_id)}
    if existing is not None:
        raise HubError(409, f"You already created this {repo_type} repo", body=dict(url))
    made = call.state.add(Repository(repo_type, repo_id, private=call.json().get("visibility") == "private"))
    return answer({**url, "name": made.id, "id": made.id})


def _delete(call: Call) -> Reply:
    repo_type, repo_id = _repository_in_body(call)
    repository = _readable(call, repo_type, repo_id)
    _writable(call, repository)
    call.state.remove(repository)
    return answer({})


def _list(repo_type: str) -> Callable[[Call], Reply]:
    def handle(call: Call) -> Reply:
        seen = [r for r in call.state.repositories.values() if r.type == repo_type and call.caller.sees(r)]
        return _paged(call, listing.repositories(seen, call.query))

    return handle


# Requests about one repository


def _info(call: Call, repository: Repository, revision: str = MAIN) -> Reply:
    facts = metadata.describe(repository, repository.resolve(revision), blobs=listing.flag(call.query, "blobs"))
    return answer(listing.choose(facts, call.query))


def _tree(call: Call, repository: Repository, revision: str, folder: str = "") -> Reply:
    commit, expand = repository.resolve(revision), listing.flag(call.query, "expand")
    entries = listing.tree(commit, folder, recursive=listing.flag(call.query, "recursive"), expand=expand)
    return _paged(call, entries, 50 if expand else None)


def _paths(call: Call, repository: Repository, revision: str) -> Reply:
    form = call.json() if call.body.startswith(b"{") else parse_qs(call.body.decode())
    expand = form.get("expand", ["false"])
    return answer(
        listing.paths(repository.resolve(revision), form.get("paths", []), expand=expand in (True, ["true"], ["True"]))
    )


def _commits(call: Call, repository: Repository, revision: str = MAIN) -> Reply:
    return _paged(call, listing.commits(repository.history(revision), "expand[]" in call.query))


def _refs(call: Call, repository: Repository) -> Reply:
    def entries(kind: str, refs: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": oid} for name, oid in refs.items()]

    branches, tags = entries("heads", repository.branches), entries("tags", repository.tags)
    return answer({"branches": branches, "converts": [], "tags": tags, "pullRequests": []})


def _create_branch(call: Call, repository: Repository, branch: str) -> Reply:
    _writable(call, repository)
    if branch in repository.branches:
        raise HubError(409, "Reference already exists")
    repository.branches[branch] = repository.resolve(call.json().get("startingPoint", MAIN)).oid
    return answer({})


def _delete_branch(call: Call, repository: Repository, branch: str) -> Reply:
    _writable(call, repository)
    if branch == MAIN:
        raise HubError(403, "The main branch cannot be deleted")
    if repository.branches.pop(branch, None) is None:
        raise revision_not_found(branch)
    return answer({})


def _create_tag(call: Call, repository: Repository, revision: str) -> Reply:
    _writable(call, repository)
    tag = call.json()["tag"]
    if tag in repository.tags:
        raise HubError(409, "Tag reference exists already")
    repository.tags[tag] = repository.resolve(revision).oid
    return answer({})


def _delete_tag(call: Call, repository: Repository, tag: str) -> Reply:
    _writable(call, repository)
    if repository.tags.pop(tag, None) is None:
        raise revision_not_found(tag)
    return answer({})


def _settings(call: Call, repository: Repository) -> Reply:
    _writable(call, repository)
    body = call.json()
    if "visibility" in body:
        repository.private = body["visibility"] == "private"
    if "gated" in body:
        repository.gated = body["gated"]
    return answer({"private": repository.private, "gated": repository.gated})


def _access(call: Call, repository: Repository, what: str) -> Reply:
    """Grant a user access to a gated repository (``grant``), or change that (``handle``)."""
    _writable(call, repository)
    body = call.json()
    if what == "grant" or body.get("status") == "accepted":
        repository.granted.add(body["user"])
    else:
        repository.granted.discard(body["user"])
    return answer({})


def _auth_check(call: Call, repository: Repository, right: str = "read") -> Reply:
    accounts.require_content(call.caller, repository)
    if right == "write":
        _writable(call, repository)
    return answer({})


def _squash(call: Call, repository: Repository, branch: str) -> Reply:
    _writable(call, repository)
    return answer({"commitId": repository.squash(branch, call.json()["message"], call.caller.user or "").oid})


def _lfs_files(call: Call, repository: Repository) -> Reply:
    return _paged(call, listing.lfs_files(repository))


def _purge(call: Call, repository: Repository, _: str) -> Reply:
    _writable(call, repository)
    deletions = call.json()["deletions"]
    if not deletions.get("rewriteHistory"):
        raise HubError(400, "This server only purges LFS files with rewriteHistory")
    repository.purge_objects(set(deletions["sha"]))
    return answer({})


_FIXED_PATHS: dict[tuple[str, str], Callable[[Call], Reply]] = {
    ("GET", "/api/whoami-v2"): _whoami,
    ("POST", "/api/validate-yaml"): _validate_yaml,
    ("POST", "/api/repos/create"): _create,
    ("DELETE", "/api/repos/delete"): _delete,
    ("GET", "/api/models"): _list("model"),
    ("GET", "/api/datasets"): _list("dataset"),
}
_REPOSITORY_ACTIONS: dict[tuple[str, str | None], Callable[..., Reply]] = {
    ("GET", None): _info,
    ("GET", "revision"): _info,
    ("GET", "tree"): _tree,
    ("POST", "paths-info"): _paths,
    ("POST", "preupload"): content.preupload,
    ("POST", "commit"): content.commit,
    ("GET", "commits"): _commits,
    ("GET", "refs"): _refs,
    ("POST", "branch"): _create_branch,
    ("DELETE", "branch"): _delete_branch,
    ("POST", "tag"): _create_tag,
    ("DELETE", "tag"): _delete_tag,
    ("PUT", "settings"): _settings,
    ("POST", "user-access-request"): _access,
    ("GET", "auth-check"): _auth_check,
    ("POST", "super-squash"): _squash,
    ("GET", "lfs-files"): _lfs_files,
    ("POST", "lfs-files"): _purge,
}
