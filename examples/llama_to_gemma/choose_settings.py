"""Compare settings on users whom the demo's reported seeds do not draw, so that no reported figure was looked at."""

from __future__ import annotations

import argparse

import numpy as np

from puma_hub import AdapterTrainer, PersonalizedLM, PromptTrainer, PumaTrainingArguments, evaluate_bank, select_users
from puma_hub.data import chronological_split, most_recent, of_users, rows_by_user, sample_users
from puma_hub.data.movielens import read_movielens
from puma_hub.data.statistics import with_item_statistics
from puma_hub.demo.fetch import fetch
from puma_hub.training import with_source_predictions

REPORTED_SEEDS = (42, 43, 44)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, help="of prompt training")
    parser.add_argument("--rate", type=float, help="of prompt training")
    parser.add_argument("--penalty", type=float, help="of prompt training")
    parser.add_argument("--adapter-rate", type=float)
    parser.add_argument("--adapter-penalty", type=float)
    parser.add_argument("--share", type=float, default=0.12, help="of the users, on whom the adapter trains")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of selection and adapter training")
    parser.add_argument("--users", type=int, help="a random part of these users, for a quick look")
    args = parser.parse_args()

    everybody = read_movielens(fetch("movielens-100k"))
    reported = {user for seed in REPORTED_SEEDS for user in rows_by_user(sample_users(everybody, 300, seed))}
    rows = of_users(everybody, sorted(set(rows_by_user(everybody)) - reported))
    if args.users:
        rows = sample_users(rows, args.users, 0)
    splits = with_item_statistics(chronological_split(most_recent(rows, 40)))

    old = PersonalizedLM.from_pretrained(str(fetch("smollm2-135m")))
    settings = PumaTrainingArguments(
        num_train_epochs=args.epochs, learning_rate=args.rate, offset_penalty=args.penalty, seed=1
    )
    trainer = PromptTrainer(old, splits["train"], settings)
    source = trainer.train()
    print("validation loss by epoch:", [round(loss, 4) for loss in trainer.report["validation_losses"]])
    before = evaluate_bank(old, source, splits)
    print(
        f"source RMSE {before['metrics']['rmse']:.4f}", {k: round(v["rmse"], 4) for k, v in before["baselines"].items()}
    )

    new = PersonalizedLM.from_pretrained(str(fetch("gemma-3-270m")))
    values = []
    for seed in args.seeds:
        chosen = select_users(source, splits["train"], budget=int(len(source) * args.share), seed=40 + seed)
        settings = PumaTrainingArguments(
            num_train_epochs=1,
            validation_share=0.0,
            learning_rate=args.adapter_rate,
            offset_penalty=args.adapter_penalty,
            seed=seed,
        )
        taught = with_source_predictions(old, source, of_users(splits["train"], chosen))
        adapter = AdapterTrainer(new, source, taught, settings).train()
        values.append(evaluate_bank(new, adapter.migrate(source), splits["validation"])["metrics"]["rmse"])
        print(f"seed {seed}: migrated RMSE {values[-1]:.4f}", flush=True)
    print(f"migrated RMSE {np.mean(values):.4f} on average, from {min(values):.4f} to {max(values):.4f}")


if __name__ == "__main__":
    main()
