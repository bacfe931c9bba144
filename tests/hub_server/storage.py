"""Repositories in memory: commits, branches and tags. HTTP and users are handled elsewhere."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from functools import cached_property

from tests.hub_server.errors import revision_not_found
from tests.hub_server.xet_store import XetStore

MAIN = "main"
LFS_SUFFIXES = (".safetensors", ".parquet", ".arrow", ".bin", ".pt", ".pkl", ".gguf", ".npy", ".npz", ".gz", ".zip")
_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES)
_LARGE = 10 * 1024 * 1024
_counter = itertools.count()
_latest = datetime.now(timezone.utc)


def now() -> str:
    """The current time. Each call returns a later time, so that sorting by time has no ties."""
    global _latest
    _latest = max(_latest + timedelta(milliseconds=1), datetime.now(timezone.utc))
    return as_text(_latest)


def as_text(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def upload_mode(path: str, size: int, sample: bytes) -> str:
    """How a file is uploaded: large, binary and weight files through LFS."""
    return "lfs" if path.endswith(LFS_SUFFIXES) or size > _LARGE or b"\0" in sample else "regular"


@dataclass(frozen=True)
class Blob:
    """A file's content."""

    content: bytes
    lfs: bool

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def pointer(self) -> bytes:
        return (
            f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n".encode()
        )

    @cached_property
    def oid(self) -> str:
        """The git object id of the content, or of the LFS pointer in its place."""
        stored = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid


@dataclass(frozen=True)
class Commit:
    oid: str
    parent: str | None
    tree: Mapping[str, Blob]
    title: str
    message: str
    author: str
    date: str = field(default_factory=now)


@dataclass
class Repository:
    """A repository with its history; the caller holds the server's lock."""

    type: str  # "model" or "dataset"
    id: str
    private: bool = False
    gated: str | bool = False
    granted: set[str] = field(default_factory=set)
    created_at: str = field(default_factory=now)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # uploaded through LFS, by SHA-256

    def __post_init__(self) -> None:
        self.commit_tree({".gitattributes": Blob(_ATTRIBUTES.encode(), lfs=False)}, "initial commit")

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def head(self, branch: str = MAIN) -> str:
        return self.branches[branch]

    def resolve(self, revision: str) -> Commit:
        """The commit of a branch, a tag or a (shortened) commit id."""
        oid = self.branches.get(revision) or self.tags.get(revision)
        if oid is None and len(revision) >= 7:
            oid = next((known for known in self.commits if known.startswith(revision)), None)
        if oid is None:
            raise revision_not_found(revision)
        return self.commits[oid]

    def files(self, revision: str = MAIN) -> dict[str, bytes]:
        return {path: blob.content for path, blob in self.resolve(revision).tree.items()}

    def history(self, revision: str = MAIN) -> list[Commit]:
        """The commits of a revision, newest first."""
        found = [self.resolve(revision)]
        while found[-1].parent is not None:
            found.append(self.commits[found[-1].parent])
        return found

    def commit(self, changes: Mapping[str, bytes | None], title: str = "commit", branch: str = MAIN) -> str:
        """Write files, and delete those that are None, without any checks. Return the commit id."""
        tree = dict(self.resolve(branch).tree)
        for path, content in changes.items():
            if content is None:
                del tree[path]
            else:
                tree[path] = Blob(content, lfs=upload_mode(path, len(content), content[:512]) == "lfs")
        return self.commit_tree(tree, title, branch=branch).oid

    def commit_tree(
        self, tree: Mapping[str, Blob], title: str, *, message: str = "", author: str = "", branch: str = MAIN
    ) -> Commit:
        parent = self.branches.get(branch)
        commit = self._make(tree, parent, title, message, author or self.namespace)
        self.branches[branch] = commit.oid
        return commit

    def squash(self, branch: str, title: str, author: str) -> Commit:
        """Replace the branch by a single commit. Drop commits and objects that no branch or tag reaches."""
        if branch not in self.branches:
            raise revision_not_found(branch)
        commit = self._make(self.resolve(branch).tree, None, title, "", author)
        self.branches[branch] = commit.oid
        self.drop_unreachable()
        return commit

    def drop_unreachable(self) -> None:
        kept = {commit.oid for oid in {*self.branches.values(), *self.tags.values()} for commit in self.history(oid)}
        self.commits = {oid: commit for oid, commit in self.commits.items() if oid in kept}
        held = {blob.sha256 for commit in self.commits.values() for blob in commit.tree.values() if blob.lfs}
        self.objects = {sha: content for sha, content in self.objects.items() if sha in held}

    def purge_objects(self, shas: set[str]) -> None:
        """Delete LFS objects for good. All commits are rewritten without the files that pointed to them."""
        renamed: dict[str, str] = {}
        for old in list(self.commits.values()):  # parents come before their children
            tree = {path: blob for path, blob in old.tree.items() if not (blob.lfs and blob.sha256 in shas)}
            parent = renamed[old.parent] if old.parent else None
            renamed[old.oid] = self._make(tree, parent, old.title, old.message, old.author).oid
        self.branches = {name: renamed[oid] for name, oid in self.branches.items()}
        self.tags = {name: renamed[oid] for name, oid in self.tags.items()}
        self.drop_unreachable()

    def _make(self, tree: Mapping[str, Blob], parent: str | None, title: str, message: str, author: str) -> Commit:
        content = "".join(f"{path} {blob.oid}\n" for path, blob in sorted(tree.items()))
        seed = f"{self.type} {self.id} {parent} {title} {next(_counter)}\n{content}"
        commit = Commit(hashlib.sha1(seed.encode()).hexdigest(), parent, dict(tree), title, message, author)
        self.commits[commit.oid] = commit
        self.objects.update({blob.sha256: blob.content for blob in tree.values() if blob.lfs})
        return commit


@dataclass(frozen=True)
class BucketFile:
    """What a bucket knows of a file; its content is in the store."""

    xet_hash: str
    mtime: str
    uploaded_at: str = field(default_factory=now)


@dataclass
class Bucket:
    """Files without history, by their paths."""

    id: str
    store: XetStore
    private: bool = False
    created_at: str = field(default_factory=now)
    entries: dict[str, BucketFile] = field(default_factory=dict)

    @property
    def namespace(self) -> str:
        return self.id.split("/")[0]

    def files(self) -> dict[str, bytes]:
        return {path: self.store.content(entry.xet_hash) for path, entry in self.entries.items()}

    def size(self, path: str) -> int:
        return self.store.size(self.entries[path].xet_hash)
