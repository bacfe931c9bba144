"""Model cards: the facts come from the adapter and a report, the prose from a template."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import as_file, files

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from puma_hub.adapter import PumaAdapter

_TEMPLATE = "adapter_card.md"
_MARKUP = str.maketrans("", "", "<>`[]{}|\n\r")


def plain(text: str) -> str:
    """``text`` without the signs that Markdown, HTML or Jinja would act on."""
    return text.translate(_MARKUP)


def adapter_card(
    adapter: PumaAdapter,
    *,
    location: str,
    evaluation: str,
    training: str,
    results: Sequence[EvalResult] = (),
    licence: str | None = None,
) -> ModelCard:
    """The card of an adapter; the same input gives the same bytes.

    Args:
        location: what ``from_pretrained`` is given in the card's snippet.
        evaluation: Markdown made by this package, such as the demo's table.
        training: one paragraph on users and cost.
        results: figures for the card's ``model-index``.
        licence: of the adapter; it inherits the obligations of both LLMs, so it is stated only where given.
    """
    config = adapter.config
    target = config.require_pair()
    source = " + ".join(plain(spec.model_id) for spec in config.sources)
    title = f"{source} -> {plain(target.model_id)}"
    data = ModelCardData(
        library_name="puma_hub",
        license=licence,
        base_model=[plain(spec.model_id) for spec in (*config.sources, target)],
        tags=["puma_hub", "soft-prompt", "prompt-migration"],
        model_name=title if results else None,
        eval_results=list(results) or None,
    )
    with as_file(files("puma_hub.hub_templates").joinpath(_TEMPLATE)) as template:
        return ModelCard.from_template(
            data,
            template_path=str(template),
            source=source,
            target=plain(target.model_id),
            source_size=config.source_size,
            target_size=target.hidden_size,
            architecture=config.architecture,
            parameters=f"{sum(parameter.numel() for parameter in adapter.parameters()):,}",
            prompt_length=config.prompt_length,
            location=plain(location),
            source_fingerprint=", ".join(str(spec.fingerprint) for spec in config.sources),
            evaluation=evaluation,
            training=training,
            template=(config.template or "not recorded").replace("```", ""),
        )
