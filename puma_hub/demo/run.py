"""The whole of PUMA on real models and real users, as the steps a user would type."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import torch

from puma_hub.adapter import PumaAdapter, PumaConfig
from puma_hub.adapter.facts import AdapterFacts, Evaluation, Training, prediction_labels
from puma_hub.adapter.made_anew import Earlier, save_anew
from puma_hub.bank import PromptBank
from puma_hub.bank.folder import LAYOUT
from puma_hub.data import load_interactions, most_recent, of_users, rows_by_user
from puma_hub.data.rows import numbers, texts
from puma_hub.demo.fetch import fetch
from puma_hub.demo.other_bank import other_controls, train_other_bank
from puma_hub.demo.sources import SOURCES
from puma_hub.errors import ConfigurationError
from puma_hub.evaluation import evaluate_bank
from puma_hub.evaluation.compare import controls_of
from puma_hub.evaluation.evaluate import HeldOut, evaluate_rows
from puma_hub.migration import migrate
from puma_hub.scorer import PersonalizedLM
from puma_hub.selection import select_users
from puma_hub.storage import write_json
from puma_hub.storage.layout import Layout, require_replaceable
from puma_hub.tasks import default_task
from puma_hub.training import AdapterTrainer, PromptTrainer, PumaTrainingArguments, with_source_predictions
from puma_hub.training.report import forward_flops, require_own_report, versions
from puma_hub.training.teacher import PREDICTION

SOURCE_MODEL, TARGET_MODEL, DATA = "smollm2-135m", "gemma-3-270m", "movielens-100k"


@dataclass(frozen=True)
class DemoSettings:
    """What the demo runs on.

    ``share``: of the users, on whom the adapter trains; ``adapter_rows``: of each of them, the most recent.
    ``models``: ``wheels`` (from the package registry) or ``hub`` (the same two models' own repositories). ``dtype``:
    of the LLMs; ``auto`` is bfloat16 where the processor computes in it.
    """

    users: int = 300
    rows_per_user: int = 40
    share: float = 0.18
    adapter_rows: int = 18
    seed: int = 42
    out: str = "puma-demo"
    models: str = "wheels"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        if self.users < 10:
            raise ConfigurationError(f"the demo needs at least 10 users, got {self.users}")
        if self.models not in ("wheels", "hub"):
            raise ConfigurationError(f"models come from 'wheels' or 'hub', got {self.models!r}")
        if self.dtype not in ("auto", "float32", "bfloat16"):
            raise ConfigurationError(f"dtype must be auto, float32 or bfloat16, got {self.dtype!r}")


def compute_dtype(name: str) -> torch.dtype:
    """The LLMs' dtype; ``auto`` asks the processor."""
    if name != "auto":
        return torch.float32 if name == "float32" else torch.bfloat16
    if torch.cuda.is_available():
        return torch.bfloat16
    native = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)()
    return torch.bfloat16 if native else torch.float32


def run_demo(settings: DemoSettings, say: Callable[[str], None]) -> dict[str, Any]:
    """Run every step and leave adapter, banks and report in ``settings.out``; return the report.

    Raises:
        StorageError: there is something in ``settings.out`` under a name of these that is not ours.
    """
    start = time.monotonic()
    out = Path(settings.out)
    for target, layout in demo_folders(settings)[0].items():
        require_replaceable(target, layout)
    earlier = Earlier.read(out / "adapter")
    require_own_report(out / "report.json")
    folder = fetch(DATA, say)
    rows = load_interactions(
        DATA,
        folder=folder,
        task=default_task(),
        users=settings.users,
        rows_per_user=settings.rows_per_user,
        item_statistics=True,
        seed=settings.seed,
    )
    present = len(rows_by_user(rows["train"]))
    say(f"{DATA}: {len(rows['train'])} training, {len(rows['validation'])} held-out rows of {present} users")

    source_lm = _load(SOURCE_MODEL, settings, say)
    trainer = PromptTrainer(
        source_lm, rows["train"], PumaTrainingArguments(seed=settings.seed, output_dir=str(out / "work" / "source"))
    )
    source = trainer.train()
    source.save_pretrained(out / "source-bank")
    seconds = {"source": trainer.report["seconds"]["until_best_epoch"]}
    held_out = HeldOut.build(source_lm, source, rows["validation"])
    results = {"source": evaluate_rows(held_out, rows["train"])}
    answers = with_source_predictions(source_lm, source, rows["validation"], noise=0.0)
    predictions, labels = (numbers(answers, name) for name in (PREDICTION, "label"))
    results["teacher"] = {"metrics": source_lm.task.scores(predictions, labels, texts(answers, "user_id"))}

    began = time.monotonic()
    budget = max(1, int(len(source) * settings.share))
    chosen = select_users(source, rows["train"], "puma", budget, settings.seed)
    seconds["selection"] = time.monotonic() - began
    unseen = sorted(set(source.user_ids) - set(chosen))
    before = controls_of(held_out, unseen, settings.seed)
    began = time.monotonic()
    asked = most_recent(of_users(rows["train"], chosen), settings.adapter_rows)
    taught = with_source_predictions(source_lm, source, asked, seed=settings.seed)
    seconds["teacher"] = time.monotonic() - began
    encoded = source_lm.encode(taught.select_columns("item_text"), source.shape[0])
    teacher_flops = forward_flops(source_lm, encoded, source.shape[0])[0]
    other = train_other_bank(
        source_lm, folder, source.user_ids, settings.rows_per_user, settings.seed, str(out / "work" / "other"), say
    )
    del source_lm, held_out, trainer

    target_lm = _load(TARGET_MODEL, settings, say)
    say(f"training the adapter on {len(chosen)} of {len(source)} users")
    arguments = PumaTrainingArguments(
        seed=settings.seed, validation_share=0.0, output_dir=str(out / "work" / "adapter")
    )
    learner = AdapterTrainer(target_lm, source, taught, arguments)
    adapter = learner.train()
    save_anew(adapter, out / "adapter", AdapterFacts(), earlier, say)
    began = time.monotonic()
    migrated = migrate(adapter, source)
    seconds["migration"] = time.monotonic() - began
    migrated.save_pretrained(out / "migrated-bank")
    held_out = HeldOut.build(target_lm, migrated, rows["validation"])
    results["migrated"] = evaluate_rows(held_out)
    after = controls_of(held_out, unseen, settings.seed)
    apart = None
    if other is not None:
        apart = _both_sides(other.before, other_controls(target_lm, adapter, other, settings.seed))

    results["random"] = evaluate_bank(
        target_lm, random_bank(target_lm, source, adapter, settings.seed), rows["validation"]
    )
    say("retraining every user's prompt on the target, the baseline")
    again = PromptTrainer(
        target_lm, rows["train"], PumaTrainingArguments(seed=settings.seed, output_dir=str(out / "work" / "retrained"))
    )
    results["retrained"] = evaluate_bank(target_lm, again.train(), rows["validation"])

    unseen_users = _both_sides(before, after)
    report = _report(
        settings, results, unseen_users, apart, seconds, learner.report, again.report, rows, len(chosen), teacher_flops
    )
    report["seconds"]["total"] = time.monotonic() - start
    write_json(out / "report.json", report)
    save_anew(adapter, out / "adapter", demo_facts(report), Earlier.read(out / "adapter"), say)
    return report


def demo_folders(settings: DemoSettings) -> tuple[dict[str, Layout], list[str]]:
    """What the demo replaces as a whole, and the folders it writes files in."""
    banks, working = ("source-bank", "migrated-bank"), ("adapter", "work")
    return {f"{settings.out}/{name}": LAYOUT for name in banks}, [f"{settings.out}/{name}" for name in working]


def demo_facts(report: dict[str, Any]) -> AdapterFacts:
    """What the adapter's card tells, from the demo's own figures."""
    users, rows = report["users"], report["rows"]
    names = [name for name in prediction_labels() if name in report["rmse"]]
    split = "last 20 % of each user's rows"
    everybody = Evaluation(
        DATA,
        split,
        rows["validation"],
        users["total"],
        {name: {metric: report[metric][name] for metric in ("rmse", "mae")} for name in names},
        own_source_bank=True,
    )
    training = Training(
        users["selected"],
        users["total"],
        selection="puma: clusters of prompts, strata of rating variance",
        data=DATA,
        samples=report["samples"]["adapter"],
        seconds=report["seconds"]["adapter"],
        seed=report["seed"],
        time_ratio=report["speedup"],
        flops_ratio=report["flops_ratio"],
    )
    evaluations = [everybody, _sides(f"{split}, users the adapter never saw", report["unseen"], True)]
    if report["other_bank"] is not None:
        evaluations.append(_sides(f"{split}, users of another training", report["other_bank"], False))
    return AdapterFacts(tuple(evaluations), training)


def _sides(split: str, figures: dict[str, Any], own_source_bank: bool) -> Evaluation:
    keys = {"migrated": "migrated", "migrated_mean": "migrated_mean", "migrated_shuffled": "shuffled"}
    keys |= {"source": "source", "source_mean": "source_mean", "source_shuffled": "source_shuffled"}
    metrics = {name: {"rmse": figures[key]} for name, key in keys.items() if figures[key] is not None}
    return Evaluation(DATA, split, figures["rows"], figures["users"], metrics, own_source_bank)


def random_bank(lm: PersonalizedLM, source: PromptBank, adapter: PumaAdapter, seed: int) -> PromptBank:
    """Prompts of an untrained adapter, with the trained head: what the head does alone."""
    torch.manual_seed(seed)
    untrained = PumaAdapter(PumaConfig(**{**_shape(adapter), "target": lm.spec}))
    trained = adapter.config.trained_on
    untrained.standardize(adapter.input_mean, [bank.spread for bank in trained.sources], lm.embedding_rms)
    if untrained.head is not None and adapter.head is not None:
        untrained.head.load_state_dict(adapter.head.state_dict())
    return migrate(untrained.eval(), source)


def _shape(adapter: PumaAdapter) -> dict[str, Any]:
    config = adapter.config
    names = ("sources", "prompt_length", "architecture", "hidden_size", "dropout", "task", "template", "rating_head")
    return {name: getattr(config, name) for name in names}


def _load(name: str, settings: DemoSettings, say: Callable[[str], None]) -> PersonalizedLM:
    source, dtype = SOURCES[name], compute_dtype(settings.dtype)
    assert source.hub_id is not None
    if settings.models == "hub":
        say(f"loading {name}")
        return PersonalizedLM.from_pretrained(source.hub_id, dtype=dtype)
    folder = str(fetch(name, say))
    say(f"loading {name}")
    return PersonalizedLM.from_pretrained(folder, dtype=dtype, model_id=source.hub_id, revision=source.revision)


def _both_sides(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    """Own, mean and shuffled prompts of the same users on source and target LLM."""
    return {
        "users": after["users"],
        "rows": after["rows"],
        "source": before["own"],
        "source_mean": before["mean"],
        "source_shuffled": before["shuffled"],
        "migrated": after["own"],
        "migrated_mean": after["mean"],
        "shuffled": after["shuffled"],
        "gain_source": before["gain"],
        "gain_migrated": after["gain"],
        "retention": after["gain"] / before["gain"] if before["gain"] > 0 else None,
    }


def _report(
    settings: DemoSettings,
    results: dict[str, dict[str, Any]],
    unseen: dict[str, Any],
    other_bank: dict[str, Any] | None,
    seconds: dict[str, float],
    adapter: dict[str, Any],
    retraining: dict[str, Any],
    rows: datasets.DatasetDict,
    chosen: int,
    teacher_flops: float,
) -> dict[str, Any]:
    baselines = results["source"]["baselines"]
    figures = {
        metric: {
            **{name: result["metrics"][metric] for name, result in results.items()},
            **{name: baselines[name][metric] for name in ("global_mean", "user_mean", "user_item_bias")},
        }
        for metric in ("rmse", "mae")
    }
    # The prefix cache is the target's catalogue: any way to prompts needs it, so it is counted apart.
    costs = {
        name: {
            "flops": part["flops"]["until_best_epoch"] - part["flops"]["prefix_cache"],
            "seconds": part["seconds"]["until_best_epoch"] - part["seconds"]["prefix_cache"],
        }
        for name, part in (("adapter", adapter), ("retraining", retraining))
    }
    costs["adapter"]["flops"] += teacher_flops  # the source's predictions are part of the adapter's cost
    costs["adapter"]["seconds"] += seconds["teacher"]
    catalogue = max(part["flops"]["prefix_cache"] for part in (adapter, retraining))
    return {
        **figures,
        "seconds": {**seconds, **{name: cost["seconds"] for name, cost in costs.items()}},
        "samples": {
            "adapter": adapter["samples_until_best_epoch"],
            "retraining": retraining["rows"] * retraining["best_epoch"],
        },
        "users": {"total": retraining["users"], "selected": chosen},
        "rows": {name: len(part) for name, part in rows.items()},
        "unseen": unseen,
        "other_bank": other_bank,
        "flops": {**{name: cost["flops"] for name, cost in costs.items()}, "prefix_cache": catalogue},
        "flops_ratio": costs["retraining"]["flops"] / costs["adapter"]["flops"],
        "flops_ratio_with_prefix_cache": (costs["retraining"]["flops"] + catalogue)
        / (costs["adapter"]["flops"] + catalogue),
        "speedup": costs["retraining"]["seconds"] / costs["adapter"]["seconds"],
        "best_epoch": {"retraining": retraining["best_epoch"], "of": retraining["epochs"]},
        "models": {
            "source": SOURCES[SOURCE_MODEL].hub_id,
            "target": SOURCES[TARGET_MODEL].hub_id,
            "from": settings.models,
        },
        "settings": asdict(settings) | {"dtype": str(compute_dtype(settings.dtype)).removeprefix("torch.")},
        "seed": settings.seed,
        "versions": versions(),
    }
