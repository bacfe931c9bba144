"""``puma-hub push``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from puma_hub.cli.output import Result, say

if TYPE_CHECKING:
    from huggingface_hub import BucketUrl, CommitInfo

EXAMPLE = "puma-hub push migrator/adapter --namespace my-lab"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", metavar="DIR", help="folder of an adapter or of a bank")
    parser.add_argument(
        "repo", nargs="?", metavar="REPO", help="the repository; an adapter's default is the name of its pair"
    )
    parser.add_argument(
        "--bucket", action="store_true", help="for a bank: REPO is a Storage Bucket, NAMESPACE/NAME or a folder in it"
    )
    parser.add_argument("--namespace", metavar="NAME", help="organisation for that name (default: the token's user)")
    who = parser.add_mutually_exclusive_group()
    who.add_argument("--private", action="store_true", help="make a new repository private; banks are, unless --public")
    who.add_argument("--public", action="store_true", help="for a bank: anyone can read these users' personal prompts")
    parser.add_argument(
        "--license", metavar="ID", help="license of a bank, such as cc-by-4.0; an adapter's is on its card"
    )
    parser.add_argument("--revision", metavar="BRANCH", help="branch to push to (default: main)")
    parser.add_argument("--message", metavar="TEXT", help="message of the commit")
    parser.add_argument(
        "--supersedes",
        metavar="OLD_REPO",
        help="an older adapter's repository, whose card then names the new one as its new version",
    )


def run(args: argparse.Namespace) -> Result:
    from puma_hub.errors import ConfigurationError
    from puma_hub.hub.buckets import is_bucket
    from puma_hub.storage.contents import BANK, require_ours

    if args.repo and args.namespace:
        raise ConfigurationError(f"give the namespace in the name: {args.namespace}/{args.repo.split('/')[-1]}")
    kind = require_ours(args.path)
    if args.supersedes is not None and kind == BANK:
        raise ConfigurationError(
            f"--supersedes is for adapters, and {args.path} holds a bank; push the new bank to the place of the old one"
        )
    if args.bucket or is_bucket(args.repo or ""):
        url = _push_to_bucket(args, kind)
        return Result(f"{kind} in {url.url}", {"kind": kind, "bucket_id": url.bucket_id, "url": url.url})
    commit = _push_bank(args) if kind == BANK else _push_adapter(args)
    repo_id = commit.repo_url.repo_id
    report = {"kind": kind, "repo_id": repo_id, "url": str(commit.repo_url), "commit": commit.oid}
    text = f"{kind} in {commit.repo_url} at commit {commit.oid}"
    if args.supersedes is not None:
        report["supersedes"] = args.supersedes
        text += f"\nthe card of {args.supersedes} names it as the new version"
    return Result(text, report)


def _push_adapter(args: argparse.Namespace) -> CommitInfo:
    from puma_hub.adapter import PumaAdapter
    from puma_hub.adapter.publish import local_facts
    from puma_hub.errors import ConfigurationError
    from puma_hub.hub.naming import pair_repo_id

    adapter: PumaAdapter = PumaAdapter.from_pretrained(args.path)
    if args.license:
        raise ConfigurationError(f"state an adapter's license with puma-hub card {args.path} --license ID")
    facts = local_facts(adapter)
    if facts is None or not facts.evaluations:
        say(f"the card has no evaluation; add one with puma-hub card {args.path} --evaluation FILE")
    if facts is None or not facts.license:
        say(
            "the adapter has no license; it inherits the obligations of both LLMs; state one with "
            f"puma-hub card {args.path} --license ID"
        )
    private = True if args.private else False if args.public else None
    name = args.repo or pair_repo_id(adapter.config.sources, adapter.config.require_pair(), args.namespace)
    return adapter.push_to_hub(
        name, private=private, revision=args.revision, commit_message=args.message, supersedes=args.supersedes
    )


def _push_bank(args: argparse.Namespace) -> CommitInfo:
    from puma_hub.bank import PromptBank
    from puma_hub.errors import ConfigurationError

    if not args.repo:
        raise ConfigurationError("a bank has no default name; give one, such as my-lab/movie-prompts")
    return PromptBank.from_pretrained(args.path).push_to_hub(
        args.repo,
        private=not args.public,
        revision=args.revision,
        commit_message=args.message,
        license=args.license,
    )


def _push_to_bucket(args: argparse.Namespace, kind: str) -> BucketUrl:
    from puma_hub.bank import PromptBank
    from puma_hub.errors import ConfigurationError
    from puma_hub.hub.buckets import SCHEME, is_bucket, require_no_revision
    from puma_hub.storage.contents import BANK

    if kind != BANK:
        raise ConfigurationError(f"{args.path} holds an adapter, which belongs into a repository; leave --bucket out")
    if not args.repo:
        raise ConfigurationError("a bank has no default name; give the bucket's, such as my-lab/movie-prompts")
    address = args.repo if is_bucket(args.repo) else f"{SCHEME}{args.repo}"
    require_no_revision(args.revision, address)
    if args.message is not None:
        raise ConfigurationError("a bucket has no commits; leave --message out")
    return PromptBank.from_pretrained(args.path).push_to_bucket(address, private=not args.public, license=args.license)
