"""``puma-hub serve``."""

from __future__ import annotations

import argparse
import os
from functools import partial
from typing import TYPE_CHECKING, Any

from puma_hub.cli import common
from puma_hub.cli.output import Result, say
from puma_hub.extensions import SERVING_BACKENDS

if TYPE_CHECKING:
    from puma_hub.serving.service.backend import Backend
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
    common.add_model(parser)
    parser.add_argument("--bank", required=True, metavar="ID", help="the users' prompts: a bank, or a keyed store")
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
    from puma_hub.serving.service.keys import ApiKeys
    from puma_hub.serving.service.serve import serve

    limits = limits_of(args)
    report = serve(
        _name(args.model),
        partial(_backend, args, limits),
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


def limits_of(args: argparse.Namespace) -> ServiceLimits:
    """The limits that were given, and the usual ones."""
    from puma_hub.serving.service.limits import ServiceLimits

    given = {flag[2:].replace("-", "_"): getattr(args, flag[2:].replace("-", "_")) for flag, _, _ in _LIMITS}
    return ServiceLimits(**{name: value for name, value in given.items() if value is not None})


def _backend(args: argparse.Namespace, limits: ServiceLimits, meters: Meters) -> Backend:
    from puma_hub.serving.prompts import open_prompts
    from puma_hub.serving.service.backend import BackendSetting

    make = SERVING_BACKENDS.bound(args.backend, dict(args.option))
    prompts = open_prompts(args.bank)
    say(f"loading {args.model}, for the prompts of {len(prompts)} users")
    known = prompts.provenance
    template = args.template or known.template
    task = known.task if args.task is None and args.values is None else common.task_of(args)
    setting = BackendSetting(
        partial(common.load_lm, args.model, args, template, task),
        prompts,
        limits,
        meters,
        unknown_users=args.unknown_users,
        model=common.model_place(args.model),
        template=template,
        task=task,
        dtype=args.dtype,
        truncate_items=args.truncate_items,
    )
    backend: Backend = make(setting)
    return backend


def _name(model: str) -> str:
    """The model's name in requests: of a folder the last part, which says nothing of the machine's other folders."""
    return os.path.basename(os.path.abspath(model)) if os.path.isdir(model) else model
