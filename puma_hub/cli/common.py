"""Arguments and loading that several commands share."""

from __future__ import annotations

import argparse
import json
import os
from typing import TYPE_CHECKING, Any

from puma_hub.cli.output import say
from puma_hub.extensions import STAND_INS, Registry

if TYPE_CHECKING:
    from puma_hub.bank import PromptBank
    from puma_hub.identity import ModelSpec
    from puma_hub.scorer import PersonalizedLM
    from puma_hub.tasks import Task
    from puma_hub.training import PumaTrainingArguments

_MOST_VALUES = 1000  # in a range; more are taken for a mistake


def whole_number(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def rating_values(text: str) -> tuple[float, ...]:
    """Rating values such as ``1,2,5``, ``1:10`` or ``0.5:5:0.5``. A range includes both ends."""
    try:
        if ":" not in text:
            return tuple(float(part) for part in text.split(","))
        first, last, step = (float(part) for part in (text if text.count(":") > 1 else f"{text}:1").split(":"))
        steps = (last - first) / step
        if abs(steps - round(steps)) > 1e-6 or not 1 <= steps < _MOST_VALUES:
            raise ValueError
        return tuple(first + number * step for number in range(round(steps) + 1))
    except (ValueError, ZeroDivisionError, OverflowError):
        raise argparse.ArgumentTypeError(
            f"must be increasing numbers with commas, or first:last or first:last:step, got {text!r}"
        ) from None


def task_kind(name: str) -> type[Task]:
    """The task registered as ``name``."""
    from puma_hub import tasks
    from puma_hub.errors import ConfigurationError

    try:
        return tasks.task_kind(name)
    except ConfigurationError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def option(text: str) -> tuple[str, Any]:
    """``NAME=VALUE`` as a name and a value. The value is parsed as JSON; if it is not JSON, it is text."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def add_choice(parser: argparse._ActionsContainer, flag: str, registry: Registry, default: str) -> None:
    """A flag that chooses from a registry, and ``--option`` for the options of the choice."""
    known = "; ".join(f"{name}: {one.about}" for name, one in registry.items())
    parser.add_argument(flag, default=default, choices=[*registry], help=f"{known} (default: {default})")
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        type=option,
        metavar="NAME=VALUE",
        help=f"an option of the {registry.kind}; may be repeated",
    )


def add_model(parser: argparse.ArgumentParser, flag: str = "--model", why: str | None = None) -> None:
    """The arguments of a scorer; ``why`` says what an LLM that may be left out is for."""
    what = "folder or Hub id of a causal LM, or a fetched model's name"
    parser.add_argument(flag, required=why is None, metavar="ID", help=what if why is None else f"{why}: {what}")
    parser.add_argument("--template", help="preset, or text with <user> (default: the bank's, or the task's)")
    parser.add_argument(
        "--task",
        type=task_kind,
        metavar="NAME",
        help="the name of a registered task; any other word lists them (default: ratings)",
    )
    parser.add_argument(
        "--values",
        type=rating_values,
        metavar="VALUES",
        help="the possible ratings: 1:10, 0.5:5:0.5 (first:last:step), or a list with commas (default: 1:5)",
    )
    parser.add_argument(
        "--truncate-items",
        action="store_true",
        help="shorten the end of an item's text if its row does not fit the LLM",
    )
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="dtype of the LLM"
    )
    parser.add_argument("--device", help="such as cpu or cuda (default: cuda if there is one)")
    parser.add_argument(
        "--prefix-cache",
        default="auto",
        choices=("auto", "full", "lru", "recompute", "off"),
        help="which prefixes are kept (default: auto)",
    )
    parser.add_argument(
        "--cache-dtype",
        choices=("bfloat16", "int8"),
        help="keep prefixes in fewer bits, so that more fit; scores are rounded by it (default: the dtype of the LLM)",
    )


def add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the result; checkpoints are in DIR/work")
    parser.add_argument("--epochs", type=whole_number, help="passes over the rows (default: the method's)")
    parser.add_argument("--learning-rate", type=float, help="default: the method's")
    parser.add_argument(
        "--batch-size", type=whole_number, help="rows in a step of each process (default: the method's)"
    )
    parser.add_argument("--seed", type=int, default=42, help="seed of everything random (default: 42)")
    parser.add_argument(
        "--validation-share",
        type=float,
        help="share held out to choose the epoch (default: 0.1; 0 when users are added to a bank)",
    )
    parser.add_argument(
        "--offset-penalty", type=float, help="weight of the penalty on users' offsets (default: the method's)"
    )
    parser.add_argument(
        "--gradient-accumulation-steps", type=whole_number, default=1, help="batches in a step (default: 1)"
    )
    parser.add_argument(
        "--warmup-steps",
        type=float,
        default=0,
        help="steps of rising learning rates; below 1 a share of all steps (default: 0)",
    )
    parser.add_argument(
        "--report-to",
        action="append",
        metavar="NAME",
        help="a tracker, such as tensorboard or trackio; may be repeated",
    )
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0, help="time between checkpoints (default: 60)")
    parser.add_argument(
        "--restart",
        action="store_true",
        help="start again and replace an existing checkpoint (default: resume from it)",
    )


def resume_from(args: argparse.Namespace) -> bool | None:
    """The argument ``resume_from_checkpoint`` of ``train()``."""
    return False if args.restart else None


def model_of(text: str) -> str | ModelSpec:
    """A model's id, or for a bank's folder the model with all facts that the bank records."""
    from puma_hub.storage.contents import is_bank

    if not is_bank(text):
        return text
    from puma_hub.bank import PromptBank

    return PromptBank.from_pretrained(text).model


def add_mean(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mean",
        action="append",
        metavar="ID",
        help="for a bank that does not record its training's mean: a bank of the same training, or the word adapter if "
        "it was trained together with the adapter's source bank; one for each source",
    )


def add_missing(parser: argparse.ArgumentParser) -> None:
    known = "; ".join(f"{name}: {one.about}" for name, one in STAND_INS.items())
    parser.add_argument(
        "--missing",
        default="leave-out",
        choices=["leave-out", *STAND_INS],
        help=f"with several banks, for users that one of them lacks. leave-out: they do not come along; {known} "
        "(default: leave-out)",
    )


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Add ``--dtype``, which is checked by the migration."""
    parser.add_argument(
        "--dtype",
        default="float32",
        metavar="DTYPE",
        help="how prompts are stored: float32, or rounded to bfloat16, float16 or int8 for smaller files (default: "
        "float32)",
    )


def means_of(names: list[str] | None) -> list[PromptBank | str] | None:
    """The values of ``--mean``: banks, or the word ``adapter``."""
    if names is None:
        return None
    from puma_hub.bank import PromptBank

    return [name if name == "adapter" else PromptBank.from_pretrained(name) for name in names]


def task_of(args: argparse.Namespace) -> Task:
    """The task that was asked for; with ``--biases`` they are added to its predictions."""
    from puma_hub.data.biases import BIAS
    from puma_hub.tasks import default_task

    kind = type(default_task()) if args.task is None else args.task
    task = kind.from_values(args.values)
    return task.with_offset(BIAS) if getattr(args, "biases", False) else task


def load_lm(name: str, args: argparse.Namespace, template: str | None, task: Task | None = None) -> PersonalizedLM:
    """The scorer named on the command line, with ``template`` if given. A fetched model is found by its short name.

    Its task is ``task``, or else the one on the command line.

    A fetched model has the Hub id of its original, and a revision of its own.
    """
    from puma_hub.demo.sources import MODELS
    from puma_hub.scorer import PersonalizedLM

    where = model_place(name)
    identity: dict[str, Any] = {"model_id": name, "revision": None}
    if where != name:
        identity = {"model_id": MODELS[name].hub_id, "revision": MODELS[name].revision}
    elif name in MODELS:
        say(f"{name} is a local folder, so it is used in place of the fetched model of that name")
    return PersonalizedLM.from_pretrained(
        where,
        template=template,
        task=task_of(args) if task is None else task,
        dtype=args.dtype,
        device=args.device,
        prefix_cache=args.prefix_cache,
        cache_dtype=args.cache_dtype,
        truncate_items=args.truncate_items,
        **identity,
    )


def model_place(name: str) -> str:
    """The folder of a fetched model; any other name as it is.

    Raises:
        StorageError: the model has not been fetched.
    """
    from puma_hub.data.cache import model_folder
    from puma_hub.demo.sources import MODELS
    from puma_hub.errors import StorageError

    if name not in MODELS or os.path.isdir(name):
        return name
    folder = model_folder(name)
    if not folder.is_dir():
        raise StorageError(f"the model {name} is not in {folder.parent}; fetch it first: puma-hub fetch {name}")
    return str(folder)


def training_arguments(args: argparse.Namespace, **more: object) -> PumaTrainingArguments:
    from puma_hub.training import PumaTrainingArguments

    return PumaTrainingArguments(
        output_dir=f"{args.out}/work",
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        per_device_train_batch_size=args.batch_size,
        validation_share=args.validation_share,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        warmup_steps=args.warmup_steps,
        report_to=args.report_to,
        checkpoint_seconds=args.checkpoint_seconds,
        offset_penalty=args.offset_penalty,
        seed=args.seed,
        **more,  # type: ignore[arg-type]
    )


def training_folders(args: argparse.Namespace) -> list[str]:
    """The folder of checkpoint and report, after checking that a report in it is one of puma_hub."""
    from pathlib import Path

    from puma_hub.training.loop import REPORT_FILE
    from puma_hub.training.report import require_own_report

    work = f"{args.out}/work"
    require_own_report(Path(work, REPORT_FILE))
    return [work]
