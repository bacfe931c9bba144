"""Migrate MovieLens users' prompts from SmolLM2-135M to Gemma-3-270M; change the models and the data to your own."""

from __future__ import annotations

import argparse

from puma_hub import (
    AdapterTrainer,
    PersonalizedLM,
    PromptTrainer,
    PumaTrainingArguments,
    compare_banks,
    draw_rows,
    evaluate_bank,
    select_users,
    with_source_predictions,
)
from puma_hub.data import catalogue_of, load_interactions
from puma_hub.demo.fetch import fetch
from puma_hub.demo.sources import MODELS


def load(given: str | None, name: str) -> PersonalizedLM:
    """The LLM that was given, or a fetched one; this goes by its Hub id, so that others find a published pair."""
    if given:
        return PersonalizedLM.from_pretrained(given)
    source = MODELS[name]
    return PersonalizedLM.from_pretrained(str(fetch(name)), model_id=source.hub_id, revision=source.revision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", help="folder or Hub id of the old LLM (default: SmolLM2-135M, fetched)")
    parser.add_argument("--target", help="folder or Hub id of the new LLM (default: Gemma-3-270M, fetched)")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--out", default="llama-to-gemma")
    args = parser.parse_args()

    rows = load_interactions(
        "movielens-100k", folder=fetch("movielens-100k"), users=args.users, rows_per_user=40, item_statistics=True
    )

    # The old LLM's prompts. In your system they exist already: PromptBank.from_arrays(user_ids, prompts, old.spec).
    old = load(args.source, "smollm2-135m")
    source = PromptTrainer(old, rows["train"], PumaTrainingArguments(output_dir=f"{args.out}/source")).train()

    # A fifth of the users is enough to learn the map for all of them, from what the old LLM predicts for drawn items.
    chosen = select_users(source, rows["train"], "puma", budget=args.users // 5)
    drawn = draw_rows(source, catalogue_of(rows["train"]), users=chosen)
    teacher_rows = with_source_predictions(old, source, drawn)
    new = load(args.target, "gemma-3-270m")
    settings = PumaTrainingArguments(output_dir=f"{args.out}/adapter-run", validation_share=0.0)
    adapter = AdapterTrainer(new, source, teacher_rows, settings).train()
    adapter.save_pretrained(f"{args.out}/adapter")

    target = adapter.migrate(source)
    target.save_pretrained(f"{args.out}/bank")

    print(evaluate_bank(new, target, rows)["metrics"])
    unseen = sorted(set(source.user_ids) - set(chosen))
    comparison = compare_banks(old, source, new, target, rows["validation"], users=unseen)
    print({side: {k: comparison[side][k] for k in ("own", "mean", "shuffled")} for side in ("source", "target")})
    print("retention of the personal gain on users the adapter never saw:", comparison["retention"])


if __name__ == "__main__":
    main()
