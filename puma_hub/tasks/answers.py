"""How a task's answers are shown to readers."""

from __future__ import annotations

from collections.abc import Sequence


def described(answers: Sequence[str], texts: Sequence[str] | None) -> str:
    """The answers for a reader, each with its spelling where that is another."""
    spelled = [text.strip() for text in texts or answers]
    return ", ".join(f"{answer} as {text}" if text != answer else answer for answer, text in zip(answers, spelled))
