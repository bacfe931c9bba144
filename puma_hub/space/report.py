"""The report on a migration: tables and a picture, and a page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from puma_hub.errors import StorageError

_MOST_BYTES = 32 * 2**20  # of a page; a report with its pictures has well under one


@dataclass(frozen=True)
class Report:
    """What is known of the migration as a whole: a page of HTML, Markdown and a PNG; each may be empty."""

    page: str = ""
    tables: str = ""
    picture: bytes = b""

    @property
    def picture_address(self) -> str:
        """The picture as an address that holds it, so that no file has to be served."""
        return f"data:image/png;base64,{base64.b64encode(self.picture).decode()}"


def read_page(path: Path) -> str:
    """The text of a page of HTML.

    Raises:
        StorageError: it cannot be read, is not UTF-8, or is far larger than a report.
    """
    try:
        size = path.stat().st_size
        text = path.read_text(encoding="utf-8") if size <= _MOST_BYTES else None
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} cannot be read as a page ({error}); make it with puma-hub report") from error
    if text is None:
        raise StorageError(f"{path} has {size:,} bytes, and a report {_MOST_BYTES:,} at most; give the report's page")
    return text
