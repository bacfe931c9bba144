"""``puma-hub rollout``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from puma_hub.cli import common
from puma_hub.cli.output import Result, say, table
from puma_hub.extensions import SERVING_BACKENDS

if TYPE_CHECKING:
    from puma_hub.serving.rollout.deployment import Deployment
    from puma_hub.serving.rollout.file import DeploymentFile
    from puma_hub.serving.rollout.version import Version

EXAMPLE = "puma-hub rollout --share 10"
_FILE = "deployment.json"
_OF_A_VERSION = ("model", "bank", "bank_revision", "adapter", "adapter_revision")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{parser.description or ''} Without a change, say how it stands. The service (puma-hub serve --deployment "
        "FILE) follows within seconds."
    ).strip()
    parser.add_argument("--deployment", default=_FILE, metavar="FILE", help=f"the deployment file (default: {_FILE})")
    step = parser.add_mutually_exclusive_group()
    step.add_argument(
        "--add",
        metavar="NAME",
        help="add a version: the first one is stable and answers everyone; the next one is the candidate and answers "
        "nobody yet",
    )
    step.add_argument("--promote", action="store_true", help="let the candidate answer everyone; keep the stable one")
    step.add_argument("--rollback", action="store_true", help="let the stable version answer everyone again")
    step.add_argument(
        "--retire", action="store_true", help="leave out the version that answers nobody; then there is no way back"
    )
    parser.add_argument("--share", type=_percent, metavar="PERCENT", help="of all users, whom the candidate answers")
    parser.add_argument(
        "--users", metavar="FILE", help="users, an id on each line, whom the candidate answers whatever the share is"
    )
    parser.add_argument("--shadow", choices=("on", "off"), help="score rows with both versions and compare the scores")
    parser.add_argument(
        "--delete-bank", action="store_true", help="with --retire: also delete that version's bank, if it is a folder"
    )
    version = parser.add_argument_group("the version to add")
    version.add_argument("--model", metavar="ID", help="folder or Hub id of a causal LM, or a fetched model's name")
    version.add_argument("--bank", metavar="ID", help="the users' prompts: a bank, or a keyed store")
    version.add_argument(
        "--bank-revision",
        metavar="REV",
        help="branch, tag or commit of a bank on the Hub (default: main, as it is now)",
    )
    version.add_argument("--adapter", metavar="ID", help="folder or Hub id of the adapter that migrated the bank")
    version.add_argument("--adapter-revision", metavar="REV", help="branch, tag or commit of an adapter on the Hub")
    common.add_choice(version, "--backend", SERVING_BACKENDS, "local")
    version.add_argument(
        "--name", metavar="NAME", help="with the first version: the LLM's name in requests (default: the file's name)"
    )


def _percent(text: str) -> float:
    """A number, with or without the sign ``%``."""
    try:
        return float(text.strip().removesuffix("%"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be a number from 0 to 100, in per cent of all users, got {text!r}"
        ) from None


def run(args: argparse.Namespace) -> Result:
    from puma_hub.serving.rollout.file import DeploymentFile

    _require_sense(args)
    file = DeploymentFile(args.deployment)
    if args.add:
        deployment = _added(args, file)
    elif args.retire:
        deployment = _retired(args, file)
    else:
        change = _change(args)
        deployment = file.read() if change is None else file.change(change)
    return _standing(deployment, file)


def _require_sense(args: argparse.Namespace) -> None:
    """Refuse arguments that would be left without effect."""
    from puma_hub.errors import ConfigurationError

    given = [name for name in _OF_A_VERSION if getattr(args, name)]
    given += [
        name for name, usual in (("option", []), ("backend", "local"), ("name", None)) if vars(args)[name] != usual
    ]
    if given and not args.add:
        raise ConfigurationError(f"--{given[0].replace('_', '-')} is about a version to add; give --add NAME")
    if args.add and not (args.model and args.bank):
        raise ConfigurationError(f"version {args.add} needs an LLM and prompts; give --model and --bank")
    if args.delete_bank and not args.retire:
        raise ConfigurationError("--delete-bank deletes the bank of a version that is retired; give --retire")
    split = args.share is not None or args.users or args.shadow
    if split and (args.promote or args.rollback or args.retire):
        raise ConfigurationError("--share, --users and --shadow are changes of their own; give them in a second call")


def _change(args: argparse.Namespace) -> Callable[[Deployment], Deployment] | None:
    """What is asked for, other than adding and retiring."""
    users: list[str] | None = None
    if args.users:
        from puma_hub.bank.user_lists import read_users

        users = read_users(args.users)
    if not (args.promote or args.rollback or users is not None or args.share is not None or args.shadow):
        return None

    def changed(deployment: Deployment) -> Deployment:
        if args.promote:
            return deployment.promote()
        if args.rollback:
            return deployment.roll_back()
        if args.share is not None:
            deployment = deployment.with_share(args.share)
        if users is not None:
            deployment = deployment.with_users(users)
        return deployment if args.shadow is None else deployment.with_shadow(args.shadow == "on")

    return changed


def _added(args: argparse.Namespace, file: DeploymentFile) -> Deployment:
    from puma_hub.errors import ConfigurationError
    from puma_hub.serving.rollout.deployment import Deployment
    from puma_hub.serving.rollout.facts import facts_of, pinned, require_together
    from puma_hub.serving.rollout.version import Version
    from puma_hub.serving.service.backend import bound_backend

    bound_backend(args.backend, dict(args.option))  # refuses options that are unknown or missing
    common.model_place(args.model)  # refuses a model that has to be fetched first
    version = Version(
        args.add,
        args.model,
        args.bank,
        args.bank_revision,
        args.adapter,
        args.adapter_revision,
        args.backend,
        dict(args.option),
    )
    if file.exists:
        file.read().add(version)  # refused before the Hub is asked
    facts = facts_of(version)
    version = pinned(version, facts)
    named = {name: file.named(getattr(version, name)) for name in ("model", "bank", "adapter") if vars(version)[name]}
    version = Version(**{**vars(version), **named})
    if not file.exists:
        if args.share is not None or args.users or args.shadow:
            raise ConfigurationError("the first version answers everyone; --share, --users and --shadow need a second")
        deployment = Deployment(args.name or os.path.splitext(file.path.name)[0], version)
        file.write(deployment)
        return deployment
    if args.name:
        raise ConfigurationError(f"{args.deployment} has a name already; leave --name out")

    def added(deployment: Deployment) -> Deployment:
        deployment = deployment.add(version)
        stable = facts_of(file.found(deployment.stable))
        require_together(facts.provenance, stable.provenance, f"version {version.name}")
        more = _change(args)
        return deployment if more is None else more(deployment)

    return file.change(added)


def _retired(args: argparse.Namespace, file: DeploymentFile) -> Deployment:
    from puma_hub.serving.rollout.old_bank import delete_bank, require_deletable

    gone: list[Version] = []

    def retired(deployment: Deployment) -> Deployment:
        deployment, version = deployment.retire()
        gone.append(version)
        if args.delete_bank:
            require_deletable(file.found(version).bank, file.found(deployment.stable).bank)
        return deployment

    deployment = file.change(retired)
    (version,) = gone
    if args.delete_bank:
        delete_bank(file.found(version).bank)
        say(f"{version.name} is retired, and its bank {version.bank} is deleted")
    else:
        say(f"{version.name} is retired; its bank {version.bank} is left as it is")
    return deployment


def _standing(deployment: Deployment, file: DeploymentFile) -> Result:
    """How a deployment stands, without marks of users."""
    counted = _counted(deployment, file)
    candidate, split = deployment.candidate, deployment.split
    roles = [(deployment.stable, "stable", 100 - split.share)]
    if candidate is not None:
        roles.append((candidate, "candidate", split.share))
    users = {} if counted is None else counted.by_version
    rows = [
        [one.name, role, f"{share:g} %", str(users.get(one.name, "")), one.model, one.bank]
        for one, role, share in roles
    ]
    text = table(["version", "", "share", "users", "model", "bank"], rows)
    if split.listed:
        text += f"\n{len(split.listed)} listed users are answered by the candidate"
        if counted is not None and counted.listed < len(split.listed):
            unknown = len(split.listed) - counted.listed
            text += f"; {unknown} of them have no prompt in the stable version's bank: check the ids"
    if deployment.shadow:
        text += "\nrows are scored with both versions"
    report: dict[str, Any] = {
        "name": deployment.name,
        "stable": deployment.stable.to_dict(),
        "candidate": None if candidate is None else candidate.to_dict(),
        "share": split.share,
        "listed": len(split.listed),
        "shadow": deployment.shadow,
        "users": users or None,
    }
    return Result(text, report)


@dataclass(frozen=True)
class _Counted:
    """Of the stable version's users: ``by_version`` answered by each, and how many are ``listed``."""

    by_version: dict[str, int]
    listed: int


def _counted(deployment: Deployment, file: DeploymentFile) -> _Counted | None:
    """The counts; None where users cannot be listed.

    Users who have no prompt in the candidate's bank count for the stable version, which answers them.
    """
    from puma_hub.errors import PumaHubError
    from puma_hub.serving.rollout.facts import local_prompts, user_ids

    candidate, split = deployment.candidate, deployment.split
    try:
        users = user_ids(file.found(deployment.stable))
        known = None if candidate is None else local_prompts(file.found(candidate))
    except PumaHubError as error:  # the change is made; this is only about it
        say(f"users cannot be counted: {error}")
        return None
    if users is None:
        return None
    found = {version.name: 0 for version in deployment.versions}
    for user in users:
        has = known is None or user in known
        found[(deployment.version_of(user) if has else deployment.stable).name] += 1
    return _Counted(found, sum(split.mark(user) in split.listed for user in users) if split.listed else 0)
