"""The errors a user can foresee. Each says what was expected, what was found and what to do."""

from __future__ import annotations

import re
import reprlib

_MOST_BITS = 256
_LONGEST_REASON = 300
_SECRETS = (
    (re.compile(r"\b(hf_|api_org_)\w+"), r"\1***"),
    (re.compile(r"\b(Bearer|Basic)(\s+)[^\s\"',;]+", re.IGNORECASE), r"\1\2***"),
    (re.compile(r"(://)[^\s/@\"']+@"), r"\1***@"),
    (re.compile(r"\b(token|password|api_key)=[^\s&\"',;]+", re.IGNORECASE), r"\1=***"),
)


class PumaHubError(Exception):
    """Base of every error that puma_hub raises on purpose."""

    def __str__(self) -> str:  # KeyError would print the repr of the message
        return str(self.args[0]) if self.args else type(self).__name__


class ConfigurationError(PumaHubError, ValueError):
    """An argument or a configuration field has a value that cannot be used."""


class InteractionsError(PumaHubError, ValueError):
    """Interactions lack a column, hold invalid labels, or cannot be read."""


class TemplateError(PumaHubError, ValueError):
    """A template's slots are wrong, or a rendered text does not fit the model."""


class AnswerTokenError(PumaHubError, ValueError):
    """The tokenizer cannot tell the answers of a task apart by their first token."""


class UnsupportedModelError(PumaHubError, ValueError):
    """The language model cannot be scored exactly through soft prompts."""


class NotFiniteError(PumaHubError, ArithmeticError):
    """The language model gave NaN or infinite numbers, for instance since its dtype overflows."""


class BankError(PumaHubError, ValueError):
    """A prompt bank is malformed: shapes, ids or values."""


class UnknownUserError(PumaHubError, KeyError):
    """A user is not in the bank."""


class MismatchError(PumaHubError, ValueError):
    """Two parts belong to different language models, prompt lengths or tasks."""


class SelectionError(PumaHubError, ValueError):
    """Users cannot be selected as asked."""


class CheckpointError(PumaHubError, RuntimeError):
    """A saved adapter, bank or training state is damaged, incomplete or of another kind."""


class StorageError(PumaHubError, OSError):
    """A file cannot be read or written."""


class MissingDependencyError(PumaHubError, ImportError):
    """An optional package is needed; the message holds the command that installs it."""


class HubError(PumaHubError, OSError):
    """The Hub refused a request, or its answer cannot be used."""


class HubAccessError(HubError):
    """The token is missing or invalid, lacks a right, or the repository is gated."""


class HubNotFoundError(HubError):
    """A repository, revision or file is not on the Hub, or not for this token; or no adapter fits."""


class HubUnavailableError(HubError):
    """The Hub cannot be reached or is busy; the same call may work later."""


class ServingError(PumaHubError, RuntimeError):
    """A serving engine's answer cannot be used, or its server cannot be reached."""


class _Short(reprlib.Repr):
    """Shows little of what is long or deep."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxlist, self.maxdict, self.maxstring, self.maxother = 2, 3, 4, 120, 120

    def repr_int(self, x: int, level: int) -> str:
        return repr(x) if x.bit_length() <= _MOST_BITS else f"a number of {x.bit_length()} bits"


def shown(value: object) -> str:
    """A value from elsewhere as messages show it: short, on one line, nothing in it that a terminal acts on."""
    return _Short().repr(value)


def first_line(error: BaseException) -> str:
    """What an error of a library says, for a message: its first line, short, or its kind where it says nothing."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return without_secrets(lines[0])[:_LONGEST_REASON]


def without_secrets(text: str) -> str:
    """What a library says, for a message: no token, and no user and password of an address."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text
