"""``puma-hub``: one command for each step. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from puma_hub.allocator import keep_freed_memory
from puma_hub.cli import processes

# Name, module, help text. The modules import torch and transformers only inside their functions.
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("demo", "demo", "migrate real users' prompts from SmolLM2 to Gemma, with all baselines"),
    ("fetch", "fetch", "fetch the demo's models and data into the cache"),
    ("data", "data", "describe interactions, beside the paper's where there are some, or list the data sets"),
    ("fit", "fit", "train one soft prompt for each user on a language model"),
    ("select", "select", "choose the users an adapter trains on"),
    (
        "distribution",
        "distribution",
        "save the mean and covariance of a bank's prompts, by which adapters can be trained",
    ),
    ("train", "train", "train an adapter to another language model"),
    ("migrate", "migrate", "migrate a bank with an adapter"),
    ("calibrate", "calibrate", "fit level and slope of a bank's rating head to a few labelled rows"),
    ("chain", "chain", "migrate a bank through several adapters"),
    ("evaluate", "evaluate", "score held-out rows with a bank and with the baselines"),
    ("compare", "compare", "compare a source bank with a migrated one, with the controls"),
    ("report", "report", "report on a migration as one page: errors with intervals, agreement, drift, who gets worse"),
    ("gate", "gate", "say whether a report meets conditions, by the exit status"),
    ("card", "card", "make or refresh an adapter's model card"),
    ("push", "push", "publish an adapter or a bank on the Hub"),
    ("search", "search", "list published adapters"),
    ("route", "route", "find the cheapest chain of published adapters"),
    ("info", "info", "describe a bank or an adapter"),
    ("serve", "serve", "answer requests with users' prompts over HTTP, as OpenAI's API and for scores"),
    ("rollout", "rollout", "move users from one version of what is served to another, and back"),
    ("reproduce", "reproduce", "run an experiment of the paper, or of ours, for several seeds"),
    ("bench", "bench", "measure the training step against a straightforward one"),
)


def _program() -> str:
    """The name in usage lines and errors: ``hf puma`` where the client ``hf`` runs this as its extension."""
    return "hf puma" if Path(sys.argv[0]).stem == "hf-puma" else "puma-hub"


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command's arguments."""
    program = _program()
    parser = argparse.ArgumentParser(
        prog=program,
        description="Migrate personalised soft prompts from one language model to another.",
        epilog=f"example: {program} demo --users 300 --out puma-demo",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module, line in COMMANDS:
        command = importlib.import_module(f"puma_hub.cli.{module}_command")
        example = command.EXAMPLE.replace("puma-hub ", f"{program} ")
        sub = commands.add_parser(
            name, help=line, description=line[0].upper() + line[1:] + ".", epilog=f"example: {example}"
        )
        command.add_arguments(sub)
        sub.add_argument("--json", metavar="FILE", help="write the report to FILE")
        sub.add_argument("--debug", action="store_true", help="show the traceback of an error")
        sub.set_defaults(run=command.run)
    return parser


def _joined(arguments: Sequence[str]) -> list[str]:
    """The arguments with ``--values -5:5`` as one: argparse would read ``-5:5`` as an option."""
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] == "--values" and re.match(r"-[\d.]", argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Return 0 if it succeeds, 1 if it fails or its answer is no, 2 for wrong arguments."""
    args = build_parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    from puma_hub.errors import ConfigurationError, PumaHubError, without_secrets
    from puma_hub.hub.markup import visible

    try:
        from puma_hub.cli.output import finish

        if args.json:
            from puma_hub.cli.outputs import check_outputs

            check_outputs(args)
        with processes.working_together():
            result = args.run(args)
        if processes.is_main():
            finish(result, args.json)
            if result.after is not None:
                result.after()
        return result.status
    except PumaHubError as error:
        if args.debug:
            raise
        print(f"{_program()} {args.command}: {visible(str(error))}", file=sys.stderr)
        return 2 if isinstance(error, ConfigurationError) else 1
    except KeyboardInterrupt:
        print(f"{_program()} {args.command}: interrupted; run the same command again to continue", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 1
    except Exception as error:
        if args.debug:
            raise
        reason = without_secrets(visible(f"{type(error).__name__}: {error}"))[:500]
        print(f"{_program()} {args.command}: unexpected error: {reason} (--debug shows where)", file=sys.stderr)
        return 1


def entry() -> None:
    """The console script."""
    keep_freed_memory()
    sys.exit(main())


if __name__ == "__main__":
    entry()
