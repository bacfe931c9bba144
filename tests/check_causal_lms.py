"""Score a tiny model of every causal LM class of transformers and compare with the model's own forward.

python -m tests.check_causal_lms                      # a line for each class; status 1 if one is wrong
python -m tests.check_causal_lms --write              # and the table in docs/models.md
python -m tests.check_causal_lms LlamaForCausalLM     # some classes only
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import make_tokenizer

# isort: split
import torch
import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from puma_hub import PersonalizedLM
from puma_hub.errors import PumaHubError, UnsupportedModelError
from tests.tiny_models import causal_lm_names, make_tiny

PAGE = Path(__file__).parent.parent / "docs" / "models.md"
BEGIN, END = "<!-- classes: begin -->", "<!-- classes: end -->"
ROWS = [
    {"item_text": "Toy"},
    {"item_text": "A rather long title about nothing at all (1999), Drama"},
    {"item_text": "Toy Story (1995)"},
    {"item_text": ""},
]
_LEAST_SPREAD = 50.0  # times the error that is allowed, or the comparison would show nothing

# Why classes are refused, as reviewed; anything else is a fault of the scorer.
REVIEWED = (
    "does not accept inputs_embeds",
    "has no single matrix of input embeddings",
    "is not purely causal",
    "fails on a short text",
    "fails on inputs_embeds",
    "gives other logits for inputs_embeds",
)


@dataclass
class Verdict:
    """What became of one class: ``exact``, ``exact with off``, ``refused``, ``not built`` or ``WRONG``."""

    name: str
    verdict: str
    reason: str = ""
    text: str = ""

    @property
    def is_fault(self) -> bool:
        return self.verdict == "WRONG" or (
            self.verdict == "refused" and not any(part in self.reason for part in REVIEWED)
        )


def expected_logits(
    model: PreTrainedModel, lm: PersonalizedLM, prompts: torch.Tensor, rows: Sequence[dict[str, Any]] = ROWS
) -> torch.Tensor:
    """One unpadded forward a row, by the model alone."""
    text = model.config.get_text_config()
    layered = [
        m for m in model.modules() if hasattr(m, "embed_tokens_per_layer") and hasattr(m, "get_per_layer_inputs")
    ]
    results = []
    for row, prompt in zip(rows, prompts):
        before, after = (lm.tokenizer(t, add_special_tokens=False)["input_ids"] for t in lm.template.render(row))
        first, last = (model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long)) for ids in (before, after))
        given: dict[str, Any] = {"inputs_embeds": torch.cat([first, prompt, last])[None]}
        if layered and getattr(text, "hidden_size_per_layer_input", None):
            ids = [*before, *[text.pad_token_id or 0] * len(prompt), *after]
            given["per_layer_inputs"] = layered[-1].get_per_layer_inputs(torch.tensor([ids]))
        if "use_cache" in inspect.signature(model.forward).parameters:  # some cannot have one without attention layers
            given["use_cache"] = False
        results.append(model(**given).logits[0, -1, lm.answer_ids])
    return torch.stack(results)


def _compared(name: str, tokenizer: PreTrainedTokenizerBase, policy: str) -> str | None:
    """Why scoring a class under a policy is wrong; None where it is exact.

    Raises:
        PumaHubError: the class is refused.
    """
    lm = PersonalizedLM(make_tiny(name), tokenizer, prefix_cache=policy)
    model = make_tiny(name)
    generator = torch.Generator().manual_seed(1)
    scale = lm.embedding_rms
    for length in (1, 3):
        prompts = scale * torch.randn(len(ROWS), length, lm.hidden_size, generator=generator)
        with torch.no_grad():
            expected = expected_logits(model, lm, prompts)
            found = lm.logits(prompts, ROWS)
            alone = torch.cat([lm.logits(prompts[i : i + 1], [row]) for i, row in enumerate(ROWS)])
        allowed = 1e-4 * max(1.0, float(expected.abs().max()))
        difference = max(float((logits - expected).abs().max()) for logits in (found, alone))
        if not difference <= allowed:
            return f"difference {difference:.3g} under {policy}"
        if float(expected.std(0).max()) < _LEAST_SPREAD * allowed:
            return f"rows differ by {float(expected.std(0).max()):.3g} only, too little to compare"
    return None


def check(name: str, tokenizer: PreTrainedTokenizerBase) -> Verdict:
    """Build, score and compare one class."""
    try:
        model = make_tiny(name)
    except Exception as error:
        return Verdict(name, "not built", _line(error))
    try:
        fault = _compared(name, tokenizer, "recompute")
        verdict = "exact"
    except UnsupportedModelError:
        try:
            fault = _compared(name, tokenizer, "off")
            verdict = "exact with `off`"
        except PumaHubError as error:
            return Verdict(name, "refused", _line(error, name))
    if fault:
        return Verdict(name, "WRONG", fault)
    if PersonalizedLM(model, tokenizer).cache_report.policy == "off" and verdict == "exact":
        return Verdict(name, "WRONG", "auto takes off")
    return Verdict(name, verdict, text=_writes(model, tokenizer))


def _writes(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        lm = PersonalizedLM(model, tokenizer)
        lm.generate(["A <user>", "A longer text <user> is"], [torch.zeros(1, lm.hidden_size)] * 2, max_new_tokens=2)
    except UnsupportedModelError:
        return "no"
    return "yes"


def _line(error: Exception, name: str = "") -> str:
    text = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    text = re.sub(r"; choose another model$|^" + re.escape(name) + r"\.? ?", "", text)
    text = text if isinstance(error, PumaHubError) else f"{type(error).__name__}: {text}"
    return text[:160].replace("|", "/")


def table(verdicts: Sequence[Verdict]) -> str:
    """The classes in Markdown, by what became of them."""
    lines = [f"transformers {transformers.__version__}, {len(verdicts)} classes.", ""]
    lines += ["| class | scored | text | why |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {v.name} | {v.verdict} | {v.text} | {v.reason} |" for v in verdicts)])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="classes; all by default")
    parser.add_argument("--write", action="store_true", help="write the table into docs/models.md")
    options = parser.parse_args(arguments)
    transformers.logging.set_verbosity_error()
    tokenizer = make_tokenizer()
    verdicts = []
    for name in options.names or causal_lm_names():
        try:
            verdicts.append(check(name, tokenizer))
        except Exception as error:  # one class must not end the rest
            verdicts.append(Verdict(name, "WRONG", _line(error)))
        print(f"{name:42} {verdicts[-1].verdict:17} {verdicts[-1].text:3} {verdicts[-1].reason}", flush=True)
    if options.write:
        page = PAGE.read_text()
        start, stop = page.index(BEGIN) + len(BEGIN), page.index(END)
        PAGE.write_text(f"{page[:start]}\n{table(verdicts)}\n{page[stop:]}")
    return int(any(verdict.is_fault for verdict in verdicts))


if __name__ == "__main__":
    sys.exit(main())
