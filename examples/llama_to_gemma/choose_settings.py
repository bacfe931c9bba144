"""Compare settings on users whom the demo's reported seeds do not draw, so that no reported figure was looked at."""

from __future__ import annotations

import argparse

import datasets
import numpy as np

from puma_hub import (
    AdapterTrainer,
    PersonalizedLM,
    PromptBank,
    PromptTrainer,
    PumaTrainingArguments,
    draw_rows,
    evaluate_bank,
    select_users,
)
from puma_hub.data import catalogue_of, chronological_split, most_recent, of_users, rows_by_user, sample_users
from puma_hub.data.item_statistics import with_item_statistics
from puma_hub.data.movielens import read_movielens
from puma_hub.demo.fetch import fetch
from puma_hub.demo.settings import compute_dtype
from puma_hub.training import with_source_predictions
from puma_hub.training.teacher import NOISE, PREDICTION

REPORTED_SEEDS = (42, 43, 44)


def prompts(name: str, lm: PersonalizedLM, splits: datasets.DatasetDict, settings: PumaTrainingArguments) -> PromptBank:
    """Train the users' prompts and print how well they do."""
    trainer = PromptTrainer(lm, splits["train"], settings)
    bank = trainer.train()
    print(
        f"{name}: validation loss by epoch", [loss and round(loss, 4) for loss in trainer.report["validation_losses"]]
    )
    result = evaluate_bank(lm, bank, splits)
    baselines = {key: round(value["rmse"], 4) for key, value in result["baselines"].items()}
    print(f"{name}: RMSE {result['metrics']['rmse']:.4f}", baselines, flush=True)
    return bank


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="posterior", choices=("posterior", "shared"), help="of prompt training")
    parser.add_argument("--epochs", type=int, help="of prompt training")
    parser.add_argument("--rate", type=float, help="of prompt training")
    parser.add_argument("--penalty", type=float, help="of prompt training")
    parser.add_argument("--adapter-rate", type=float)
    parser.add_argument("--adapter-penalty", type=float)
    parser.add_argument("--adapter-epochs", type=int, help="after the adapter has been solved for")
    parser.add_argument("--start-rows", type=int, nargs="+", help="to solve for the adapter by, one or more to compare")
    parser.add_argument("--offset-share", type=float, help="of the prompts the teacher asks with")
    parser.add_argument("--spread", type=float, help="sharpening of the teacher's answer logits")
    parser.add_argument("--noise", type=float, default=NOISE, help="on the prompts the teacher asks with, in spreads")
    parser.add_argument("--adapter-rows", type=int, default=18, help="of each chosen user, the most recent")
    parser.add_argument("--share", type=float, default=0.18, help="of the users, on whom the adapter trains")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of selection and adapter training")
    parser.add_argument("--draw", type=int, help="so many drawn rows of the chosen users, in place of their own rows")
    parser.add_argument("--labels", action="store_true", help="the adapter learns from labels alone")
    parser.add_argument("--retrain", action="store_true", help="also train all prompts on the new LLM, the baseline")
    parser.add_argument("--users", type=int, help="a random part of these users, for a quick look")
    return parser.parse_args()


def main() -> None:
    args = parsed()

    everybody = read_movielens(fetch("movielens-100k"))
    reported = {user for seed in REPORTED_SEEDS for user in rows_by_user(sample_users(everybody, 300, seed))}
    rows = of_users(everybody, sorted(set(rows_by_user(everybody)) - reported))
    if args.users:
        rows = sample_users(rows, args.users, 0)
    splits = with_item_statistics(chronological_split(most_recent(rows, 40)))

    settings = PumaTrainingArguments(
        num_train_epochs=args.epochs,
        learning_rate=args.rate,
        offset_penalty=args.penalty,
        seed=1,
        prompt_method=args.method,
    )
    old = PersonalizedLM.from_pretrained(str(fetch("smollm2-135m")), dtype=compute_dtype("auto"))
    source = prompts("source", old, splits, settings)
    how = {"offset_share": args.offset_share, "spread": args.spread}
    asked = with_source_predictions(old, source, splits["validation"], noise=0.0, **how)
    told, labels = (np.asarray(asked[name][:]) for name in (PREDICTION, "label"))
    print(f"teacher on held-out rows: RMSE {np.sqrt(np.mean((told - labels) ** 2)):.4f}", flush=True)
    new = PersonalizedLM.from_pretrained(str(fetch("gemma-3-270m")), dtype=compute_dtype("auto"))
    if args.retrain:
        prompts("retrained", new, splits, settings)
    for start_rows in args.start_rows or [None]:
        values = []
        for seed in args.seeds:
            trainer = adapter_trainer(args, old, new, source, splits, start_rows, seed)
            migrated = trainer.train().migrate(source)
            values.append(evaluate_bank(new, migrated, splits["validation"])["metrics"]["rmse"])
            seconds = trainer.report["seconds"]
            print(
                f"seed {seed}: {trainer.report['samples_until_best_epoch']} samples in "
                f"{seconds['until_best_epoch'] - seconds['prefix_cache']:.1f} s, migrated RMSE {values[-1]:.4f}",
                flush=True,
            )
        print(
            f"start rows {trainer.report['start_rows']}: migrated RMSE {np.mean(values):.4f} on average, "
            f"from {min(values):.4f} to {max(values):.4f}"
        )


def adapter_trainer(
    args: argparse.Namespace,
    old: PersonalizedLM,
    new: PersonalizedLM,
    source: PromptBank,
    splits: datasets.DatasetDict,
    start_rows: int | None,
    seed: int,
) -> AdapterTrainer:
    chosen = select_users(source, splits["train"], budget=int(len(source) * args.share), seed=40 + seed)
    settings = PumaTrainingArguments(
        num_train_epochs=args.adapter_epochs,
        validation_share=0.0,
        start_rows=start_rows,
        learning_rate=args.adapter_rate,
        offset_penalty=args.adapter_penalty,
        seed=seed,
    )
    if args.draw:
        rows = draw_rows(source, catalogue_of(splits["train"]), args.draw, users=chosen, seed=seed)
    else:
        rows = most_recent(of_users(splits["train"], chosen), args.adapter_rows)
    if not args.labels:
        how = {"offset_share": args.offset_share, "spread": args.spread, "noise": args.noise, "seed": seed}
        rows = with_source_predictions(old, source, rows, **how)
    return AdapterTrainer(new, source, rows, settings, users=chosen)


if __name__ == "__main__":
    main()
