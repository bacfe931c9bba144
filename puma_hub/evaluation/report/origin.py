"""Where the target's prompts come from, and what the adapter has cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from puma_hub.adapter import PumaAdapter
from puma_hub.adapter.facts import Training
from puma_hub.adapter.publish import local_facts
from puma_hub.bank import PromptBank
from puma_hub.bank.lineage import PARENTS
from puma_hub.errors import MismatchError, PumaHubError
from puma_hub.hub.markup import visible
from puma_hub.hub.naming import public_id
from puma_hub.identity import ModelSpec
from puma_hub.storage import read_json
from puma_hub.training.loop import REPORT_FILE


def lineage_steps(lineage: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The steps of a bank's lineage, the oldest first: how each was made, from which steps (from 1), of which LLM."""
    steps = []
    for number, step in enumerate(lineage, 1):
        model = step.get("model")
        name = model.get("model_id") if isinstance(model, Mapping) else None
        steps.append(
            {
                "step": number,
                "made_by": visible(str(step.get("made_by", "not recorded"))),
                "from": [parent + 1 for parent in step.get(PARENTS, ())],
                "model": public_name(str(name)) if name else None,
            }
        )
    return steps


def model_facts(spec: ModelSpec) -> dict[str, Any]:
    """An LLM as reports name it: without a folder's path."""
    return {
        "model_id": public_name(spec.model_id),
        "revision": visible(spec.revision) if spec.revision else None,
        "fingerprint": spec.fingerprint,
    }


def public_name(name: str) -> str:
    """The name of a model without the folder it lies in."""
    return visible(public_id(name))


def adapter_cost(adapter: PumaAdapter, source: PromptBank, target: PromptBank) -> dict[str, Any]:
    """The adapter's size, and what is kept beside it of its training: users, rows, seconds, FLOPs.

    Values that are not known are None, such as all of the training for an adapter of the Hub.

    Raises:
        MismatchError: the adapter is for other LLMs than the banks'.
    """
    sources, goal = adapter.config.sources, adapter.config.require_pair()
    if not goal.is_same(target.model) or not any(spec.is_same(source.model) for spec in sources):
        raise MismatchError(
            f"the adapter goes from {', '.join(spec.model_id for spec in sources)} to {goal.model_id}, the banks are "
            f"of {source.model.model_id} and {target.model.model_id}; give the adapter that made the target bank"
        )
    facts = local_facts(adapter)
    training = facts.training if facts else None
    return cost_facts(adapter, training, _flops(str(adapter.name_or_path), asdict(training)) if training else None)


def cost_facts(adapter: PumaAdapter, training: Training | None, flops: float | None) -> dict[str, Any]:
    """The adapter's size, and what its training took."""
    return {
        "architecture": adapter.config.architecture,
        "parameters": sum(parameter.numel() for parameter in adapter.parameters()),
        "training": asdict(training) if training else None,
        "flops": flops,
    }


def _flops(folder: str, training: Mapping[str, Any]) -> float | None:
    """Those of the run that the adapter is from, if its report lies where ``puma-hub train`` leaves it."""
    try:
        report = read_json(Path(folder).resolve().parent / "work" / REPORT_FILE)
        same = (
            report["users"]["train"] == training["users"]
            and report["seconds"]["until_best_epoch"] == training["seconds"]
        )
        return float(report["flops"]["until_best_epoch"]) if same else None
    except (PumaHubError, KeyError, TypeError, ValueError, OSError):
        return None
