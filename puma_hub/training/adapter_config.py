"""The configuration of a new adapter: the user's own, completed from the banks and the scorer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from puma_hub.adapter import PumaAdapter, PumaConfig
from puma_hub.bank import PromptBank
from puma_hub.errors import ConfigurationError, MismatchError
from puma_hub.scorer import PersonalizedLM
from puma_hub.tasks import as_task

_SHAPE = ("architecture", "hidden_size", "dropout", "rating_head")
_PLAIN_DTYPES = (None, "float32", torch.float32)
# Facts about a saved adapter. The new one gets its own.
_OF_A_FILE = ("trained_on", "model_type", "architectures", "dtype", "transformers_version", "_name_or_path")


def whole_config(
    lm: PersonalizedLM, banks: Sequence[PromptBank], config: PumaConfig | None, init: PumaAdapter | None
) -> PumaConfig:
    """The configuration of an adapter from ``banks`` to ``lm``, shaped like ``init`` or as ``config`` says.

    A ``config`` without sources and target need only set what differs from ``PumaConfig()``.

    Raises:
        MismatchError: ``config`` or ``init`` is for other LLMs, or for another prompt length, task or template.
        ConfigurationError: ``config`` and ``init`` differ in shape, or ``config`` has a dtype other than float32.
    """
    facts: dict[str, Any] = {
        "sources": [bank.model for bank in banks],
        "target": lm.spec,
        "prompt_length": banks[0].shape[0],
        "task": lm.task.to_dict(),
        "template": lm.template.text,
        "answer_texts": lm.answer_texts,
        "owners": banks[0].provenance.owners,
    }
    of_init: Any = init.config if init is not None else None
    if config is not None:
        _require_fit(config, facts)
        if of_init is not None:
            _require_shape(config, of_init)
    if of_init is not None:
        _require_models(of_init, facts, "init")
        if of_init.scored_task != lm.task:
            raise MismatchError(
                f"init was made for {of_init.scored_task}, the target's scorer is for {lm.task}; give both the same "
                "task"
            )
        if of_init.prompt_length != facts["prompt_length"]:
            raise MismatchError(
                f"init takes prompts of length {of_init.prompt_length}, the banks' have length "
                f"{facts['prompt_length']}; give banks of that length"
            )
    base = of_init if of_init is not None else config
    if base is None:
        return PumaConfig(**facts)
    own = {name: value for name, value in base.to_diff_dict().items() if name not in _OF_A_FILE}
    shape = {name: getattr(base, name) for name in _SHAPE}
    shape["rating_head"] = base.rating_head and lm.task.has_head
    return PumaConfig(**{**own, **shape, **facts})


def _set_fields(config: PumaConfig) -> set[str]:
    """The fields that the user set: those that differ from the defaults, or all where the LLMs are given."""
    usual = PumaConfig()
    names = ("prompt_length", "task", "template", *_SHAPE)
    complete = bool(config.sources) or config.target is not None
    values = {name: getattr(config, name) for name in names}
    return {
        name
        for name, value in values.items()
        if value is not None and ((complete and name not in _SHAPE) or value != getattr(usual, name))
    }


def _require_models(config: PumaConfig, facts: dict[str, Any], whose: str) -> None:
    if config.sources and len(config.sources) != len(facts["sources"]):
        raise MismatchError(
            f"the {whose} takes {len(config.sources)} sources, {len(facts['sources'])} banks were given; give one bank "
            "for each source, in its order"
        )
    for theirs, ours in zip(config.sources, facts["sources"]):
        theirs.require_same(ours, f"source of the adapter's {whose}")
    if config.target is not None:
        config.target.require_same(facts["target"], f"target of the adapter's {whose}")


def _require_fit(config: PumaConfig, facts: dict[str, Any]) -> None:
    _require_models(config, facts, "config")
    fields = _set_fields(config)
    if "prompt_length" in fields and config.prompt_length != facts["prompt_length"]:
        raise MismatchError(
            f"the config has prompt_length={config.prompt_length}, the banks' prompts have length "
            f"{facts['prompt_length']}; leave it out"
        )
    # The whole task, with the settings of its loss.
    if "task" in fields and config.task != facts["task"]:
        raise MismatchError(
            f"the config has the task {config.scored_task}, the target's scorer {as_task(facts['task'])}; give both "
            "the same task"
        )
    if "template" in fields and config.template != facts["template"]:
        raise MismatchError(
            f"the config has the template {config.template!r}, the target's scorer {facts['template']!r}; give both "
            "the same template"
        )
    if getattr(config, "dtype", None) not in _PLAIN_DTYPES:
        raise ConfigurationError(
            f"the config has dtype={config.dtype}, adapters are trained in float32; leave it out, and convert the "
            "trained adapter with .to()"
        )


def _require_shape(config: PumaConfig, init: PumaConfig) -> None:
    for name in sorted(_set_fields(config) & set(_SHAPE)):
        wanted, found = getattr(config, name), getattr(init, name)
        if wanted != found:
            raise ConfigurationError(
                f"the config has {name}={wanted!r}, init has {found!r}; give only one of config and init"
            )
