"""Where parts are kept: a folder for each, named by its key."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from puma_hub.reproduce.part import Part
from puma_hub.storage import read_json, write_json

PARTS = "parts"
WORK = "work"
_DONE = "part.json"


class Store:
    """The parts in ``folder/parts``. One with ``part.json`` is done; another is gone on with.

    Args:
        folder: of the results.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / PARTS

    def place(self, part: Part) -> Path:
        """The folder of a part."""
        return self._folder / part.key

    def has(self, part: Part) -> bool:
        return (self.place(part) / _DONE).is_file()

    def facts(self, part: Part) -> dict[str, Any]:
        """What computing a part told, see :meth:`Part.make`."""
        facts: dict[str, Any] = read_json(self.place(part) / _DONE)["facts"]
        return facts

    def read(self, part: Part) -> Any:
        """What others take of a part."""
        return part.read(self.place(part), self.facts(part))

    def make(self, part: Part, compute: Callable[[Path], dict[str, Any]]) -> None:
        """Compute a part in its folder; ``part.json`` is written last, so that half a part never counts as done."""
        place = self.place(part)
        place.mkdir(parents=True, exist_ok=True)
        began = time.monotonic()
        facts = compute(place)
        seconds = time.monotonic() - began
        write_json(place / _DONE, {"part": part.described(), "facts": facts, "seconds": seconds})
        shutil.rmtree(place / WORK, ignore_errors=True)
