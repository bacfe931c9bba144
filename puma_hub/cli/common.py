"""Arguments and loading that several commands share."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import datasets

    from puma_hub.bank import PromptBank
    from puma_hub.identity import ModelSpec
    from puma_hub.scorer import PersonalizedLM, Task
    from puma_hub.training import PumaTrainingArguments


def whole_number(text: str) -> int:
    """A whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def add_model(parser: argparse.ArgumentParser, flag: str = "--model") -> None:
    parser.add_argument(
        flag, required=True, metavar="ID", help="folder or Hub id of a causal LM, or a fetched model's name"
    )
    parser.add_argument("--template", help="preset name or text with a <user> slot (default: the bank's, or rating)")
    parser.add_argument("--task", choices=("rating", "click"), default="rating", help="what is asked (default: rating)")
    parser.add_argument(
        "--dtype", default="auto", choices=("auto", "float32", "bfloat16", "float16"), help="of the LLM"
    )
    parser.add_argument("--device", help="such as cpu or cuda (default: cuda where there is one)")
    parser.add_argument(
        "--prefix-cache",
        default="auto",
        choices=("auto", "full", "lru", "recompute", "off"),
        help="policy (default: auto)",
    )


def add_interactions(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--interactions",
        required=True,
        metavar="PATH",
        help="csv, parquet, json, jsonl, a folder of splits, or movielens-100k",
    )
    parser.add_argument("--users", type=whole_number, help="draw this many users")
    parser.add_argument("--rows-per-user", type=whole_number, help="keep the most recent rows of each user")
    parser.add_argument("--item-statistics", action="store_true", help="add its mean label to each item's text")
    parser.add_argument("--data-seed", type=int, default=42, help="of the drawn users (default: 42)")


def add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", required=True, metavar="DIR", help="where the result goes; DIR/work holds checkpoints")
    parser.add_argument("--epochs", type=whole_number, help="passes over the rows (default: the method's)")
    parser.add_argument("--learning-rate", type=float, help="default: the method's")
    parser.add_argument("--batch-size", type=whole_number, help="rows a step on each process (default: the method's)")
    parser.add_argument("--seed", type=int, default=42, help="of everything random (default: 42)")
    parser.add_argument(
        "--validation-share",
        type=float,
        help="kept for choosing the epoch (default: 0.1; none for users who are added to a bank)",
    )
    parser.add_argument("--offset-penalty", type=float, help="on what is a user's own (default: the method's)")
    parser.add_argument("--checkpoint-seconds", type=float, default=60.0, help="time between checkpoints (default: 60)")


def is_bank_folder(path: str) -> bool:
    from puma_hub.bank.storage import PROVENANCE_FILE

    return os.path.isfile(os.path.join(path, PROVENANCE_FILE))


def folder(path: str) -> str:
    """The path of a folder that is there."""
    from puma_hub.errors import StorageError

    if not os.path.isdir(path):
        raise StorageError(f"there is no folder {path}; give the folder of an adapter")
    return path


def model_of(text: str) -> str | ModelSpec:
    """A model's id, or the model of a bank's folder with all that the bank knows of it."""
    if not os.path.isdir(text) or not is_bank_folder(text):
        return text
    from puma_hub.bank import PromptBank

    return PromptBank.load_from_disk(text).model


def add_mean(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mean",
        action="append",
        metavar="ID",
        help="for a bank that does not tell its training's mean: a bank of the same training, or the word adapter for "
        "prompts trained together with the adapter's source bank; one for each source",
    )


def means_of(names: list[str] | None) -> list[PromptBank | str] | None:
    """What ``--mean`` names: banks, or the word ``adapter``."""
    if names is None:
        return None
    from puma_hub.bank import PromptBank

    return [name if name == "adapter" else PromptBank.from_pretrained(name) for name in names]


def task_of(args: argparse.Namespace) -> Task:
    from puma_hub.scorer import ClickTask, RatingTask

    return RatingTask() if args.task == "rating" else ClickTask()


def load_lm(name: str, args: argparse.Namespace, template: str | None) -> PersonalizedLM:
    """The scorer named on the command line, with ``template`` if given; a fetched model is found by its short name."""
    from puma_hub.data.cache import model_folder
    from puma_hub.scorer import PersonalizedLM

    fetched = model_folder(name)
    return PersonalizedLM.from_pretrained(
        str(fetched) if "/" not in name and fetched.is_dir() else name,
        template=template or "rating",
        task=task_of(args),
        dtype=args.dtype,
        device=args.device,
        prefix_cache=args.prefix_cache,
        model_id=name,
    )


def load_rows(args: argparse.Namespace) -> datasets.DatasetDict:
    from puma_hub.data import load_interactions

    return load_interactions(
        args.interactions,
        task=task_of(args) if hasattr(args, "task") else None,
        users=args.users,
        rows_per_user=args.rows_per_user,
        item_statistics=args.item_statistics,
        seed=args.data_seed,
    )


def training_arguments(args: argparse.Namespace, **more: object) -> PumaTrainingArguments:
    from puma_hub.training import PumaTrainingArguments

    return PumaTrainingArguments(
        output_dir=f"{args.out}/work",
        num_train_epochs=args.epochs,
        learning_rate=args.learning_rate,
        per_device_train_batch_size=args.batch_size,
        validation_share=args.validation_share,
        checkpoint_seconds=args.checkpoint_seconds,
        offset_penalty=args.offset_penalty,
        seed=args.seed,
        **more,  # type: ignore[arg-type]
    )


def is_main_process() -> bool:
    """Whether this process writes results; false for all but one under ``accelerate launch``."""
    from accelerate import PartialState

    return bool(PartialState().is_main_process)
