"""``puma-hub serve``."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from puma_hub.cli import common
from puma_hub.cli.output import Result, say
from puma_hub.extensions import SERVING_BACKENDS

if TYPE_CHECKING:
    from puma_hub.scorer import PersonalizedLM
    from puma_hub.serving.prompts import Prompts
    from puma_hub.serving.rollout.file import DeploymentFile
    from puma_hub.serving.rollout.version import Version
    from puma_hub.serving.service.backend import Backend, BackendSetting
    from puma_hub.serving.service.limits import ServiceLimits
    from puma_hub.serving.service.meters import Meters

EXAMPLE = "puma-hub serve --model gemma-3-270m --bank puma-demo/target-bank --port 8000"

# Flag, kind, help text: of the limits in puma_hub/serving/service/limits.py, which has the defaults.
_LIMITS: tuple[tuple[str, Any, str], ...] = (
    ("--max-batch-size", common.whole_number, "rows that are scored together (default: 64)"),
    ("--max-wait-ms", float, "how long a row waits for others to be scored with (default: 2)"),
    ("--max-texts", common.whole_number, "texts that are continued together (default: 8)"),
    ("--queue", common.whole_number, "rows, and as many texts, that may wait; more get status 503 (default: 1024)"),
    ("--rate", float, "requests a second of each API key; more get status 429 (default: any number)"),
    ("--max-body", common.whole_number, "bytes of a request (default: 1048576)"),
    ("--max-rows", common.whole_number, "rows of a request (default: 256)"),
    ("--max-tokens", common.whole_number, "new tokens of a text (default: 1024)"),
    ("--timeout", float, "seconds for a request (default: 120)"),
    ("--grace", float, "seconds that accepted requests have when the service stops (default: 30)"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add_model(parser, why="unless a deployment file says so")
    parser.add_argument("--bank", metavar="ID", help="the users' prompts: a bank, or a keyed store")
    parser.add_argument(
        "--deployment",
        metavar="FILE",
        help="in place of --model and --bank: serve the versions of this file, which puma-hub rollout writes, and "
        "follow its changes",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8000, help="0 for a free one, which is printed (default: 8000)")
    common.add_choice(parser, "--backend", SERVING_BACKENDS, "local")
    parser.add_argument(
        "--unknown-users",
        default="error",
        choices=("error", "mean"),
        help="users without a prompt are refused, or have the bank's mean prompt (default: error)",
    )
    keys = parser.add_mutually_exclusive_group()
    keys.add_argument(
        "--api-keys", metavar="FILE", help="the keys of requests, one a line (default: those in PUMA_HUB_API_KEYS)"
    )
    keys.add_argument(
        "--no-api-keys",
        action="store_true",
        help="answer anyone who reaches the address: for a service behind a gateway that checks who asks",
    )
    for flag, kind, text in _LIMITS:
        parser.add_argument(flag, type=kind, help=text)


def run(args: argparse.Namespace) -> Result:
    from puma_hub.serving.rollout.file import DeploymentFile
    from puma_hub.serving.service.keys import ApiKeys
    from puma_hub.serving.service.serve import serve

    _require_sense(args)
    limits = limits_of(args)
    file = DeploymentFile(args.deployment) if args.deployment else None
    report = serve(
        _name(args.model) if file is None else file.read().name,
        partial(_backend, args, limits) if file is None else partial(_versions, args, limits, file),
        host=args.host,
        port=args.port,
        keys=ApiKeys() if args.no_api_keys else ApiKeys.load(args.api_keys),
        limits=limits,
        listens=partial(print, flush=True),
        say=say,
        anyone=args.no_api_keys,
    )
    answered = sum(sum(statuses.values()) for statuses in report["requests"].values())
    return Result(f"{answered} requests in {report['seconds']:.0f} s", report)


def _require_sense(args: argparse.Namespace) -> None:
    """Refuse a model beside a deployment file, which says all that a version has."""
    from puma_hub.errors import ConfigurationError

    if not args.deployment:
        if not (args.model and args.bank):
            raise ConfigurationError("give --model and --bank, or a --deployment file")
        return
    usual: dict[str, Any] = {"model": None, "bank": None, "template": None, "task": None, "values": None, "option": []}
    given = [name for name, value in {**usual, "backend": "local"}.items() if getattr(args, name) != value]
    if given:
        raise ConfigurationError(
            f"the deployment file says which LLMs, prompts and back ends are served, and prompts know their template "
            f"and task; leave --{given[0]} out"
        )


def limits_of(args: argparse.Namespace) -> ServiceLimits:
    """The limits that were given, and the usual ones."""
    from puma_hub.serving.service.limits import ServiceLimits

    given = {flag[2:].replace("-", "_"): getattr(args, flag[2:].replace("-", "_")) for flag, _, _ in _LIMITS}
    return ServiceLimits(**{name: value for name, value in given.items() if value is not None})


def _backend(args: argparse.Namespace, limits: ServiceLimits, meters: Meters) -> Backend:
    from puma_hub.serving.prompts import open_prompts
    from puma_hub.serving.service.backend import bound_backend

    make = bound_backend(args.backend, dict(args.option))
    return _made(args, limits, meters, args.model, open_prompts(args.bank), make, {})


def _versions(args: argparse.Namespace, limits: ServiceLimits, file: DeploymentFile, meters: Meters) -> Backend:
    from puma_hub.serving.prompts import open_prompts
    from puma_hub.serving.service.backend import bound_backend
    from puma_hub.serving.service.versions import VersionedBackend

    in_memory: MutableMapping[Any, PersonalizedLM] = WeakValueDictionary()

    def load(version: Version) -> tuple[Backend, Prompts]:
        make = bound_backend(version.backend, version.options)
        prompts = open_prompts(version.bank, revision=version.bank_revision)
        return _made(args, limits, meters, version.model, prompts, make, in_memory), prompts

    return VersionedBackend(file, load, limits=limits, meters=meters, say=say)


def _made(
    args: argparse.Namespace,
    limits: ServiceLimits,
    meters: Meters,
    model: str,
    prompts: Prompts,
    make: Callable[[BackendSetting], Backend],
    in_memory: MutableMapping[Any, PersonalizedLM],
) -> Backend:
    """A back end; versions of one LLM, template and task share one that is in memory."""
    from puma_hub.serving.service.backend import BackendSetting

    say(f"loading {model}, for the prompts of {len(prompts)} users")
    known = prompts.provenance
    template = args.template or known.template
    task = known.task if args.task is None and args.values is None else common.task_of(args)

    def load_lm() -> PersonalizedLM:
        key = (model, template, repr(task))
        lm = in_memory.get(key)
        if lm is None:
            lm = in_memory[key] = common.load_lm(model, args, template, task)
        return lm

    setting = BackendSetting(
        load_lm,
        prompts,
        limits,
        meters,
        unknown_users=args.unknown_users,
        model=common.model_place(model),
        template=template,
        task=task,
        dtype=args.dtype,
        truncate_items=args.truncate_items,
    )
    return make(setting)


def _name(model: str) -> str:
    """The model's name in requests: of a folder the last part, which says nothing of the machine's other folders."""
    return os.path.basename(os.path.abspath(model)) if os.path.isdir(model) else model
