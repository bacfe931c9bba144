"""Text from elsewhere in cards: shown as text, never as Markdown, HTML or YAML."""

from __future__ import annotations

_SPAN = str.maketrans({"`": "'", "|": "/", "<": None, ">": None})
_LITERAL = set("-_./:+@= ")


def visible(text: str) -> str:
    """``text`` on one line, without control characters, bidirectional marks and the like."""
    return " ".join("".join(char for char in text if char.isspace() or char.isprintable()).split())


def code(text: str) -> str:
    """An inline code span that shows ``text``, also inside a table."""
    inner = " ".join(visible(text).translate(_SPAN).split())
    return f"`{inner}`" if inner else "`?`"


def block(text: str) -> str:
    """Lines for inside a fenced block; none of them can end it."""
    return "\n".join(visible(line).replace("`", "'").replace("~~~", "'''") for line in text.splitlines()).strip("\n")


def literal(text: str) -> str:
    """A Python string literal of exactly ``text``, in characters that no Markdown or HTML parser acts on."""
    signs = (char if char.isascii() and (char.isalnum() or char in _LITERAL) else _escaped(char) for char in text)
    return '"' + "".join(signs) + '"'


def _escaped(char: str) -> str:
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"
