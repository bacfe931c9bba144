"""The one place where the version is written, and what is said where a file needs another one."""

import re

__version__ = "0.1.0"

_VERSION = re.compile(r"\d[\w.+]{0,30}")


def too_new(what: str, found: object, known: int, written_by: object) -> str:
    """The message for a file of a newer format; ``written_by`` is the version the file names, if it does."""
    wanted = f">={written_by}" if isinstance(written_by, str) and _VERSION.fullmatch(written_by) else ""
    return (
        f"{what} has format {found}, puma_hub {__version__} reads up to {known}; install the version that wrote it: "
        f"pip install -U 'puma_hub{wanted}'"
    )
