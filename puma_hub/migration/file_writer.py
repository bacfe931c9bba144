"""Writing one file of a migration, in any process that sees the banks and the folder."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from puma_hub.bank.rounding import Rounding
from puma_hub.bank.shard_file import ShardFile
from puma_hub.migration.changes import Changes
from puma_hub.migration.plan import MigrationPlan
from puma_hub.migration.run import ChosenEngine
from puma_hub.storage import new_file

_BEHIND = 4  # tables that wait to be written


@dataclass(frozen=True)
class FileWriter:
    """Writes the files of a migration by their numbers. It can be pickled, if the banks are in files.

    A file appears in the folder when it is whole. One that is there is not written again.

    Args:
        changes: since an earlier migration, whose prompts are taken over.
        per_file: users in each file but the last.
        names: of the files in the folder.
        one: the approximate size of a row in bytes.
    """

    plan: MigrationPlan
    engine: ChosenEngine
    changes: Changes | None
    per_file: int
    names: tuple[str, ...]
    folder: Path
    one: int

    def write(self, number: int, advanced: Callable[[int], object]) -> None:
        """Write file ``number``, from 0, unless it is there.

        Args:
            advanced: called with the number of users that were done since the last call.
        """
        if (self.folder / self.names[number]).is_file():
            advanced(self.users_in(number))
            return
        these = slice(number * self.per_file, (number + 1) * self.per_file)
        part, given = self.plan.take(these), (self.engine.batch_size, self.engine.run)
        tables = part.tables(*given) if self.changes is None else self.changes.part(these).tables(part, *given)
        with new_file(self.folder / self.names[number]) as path:
            _write(path, tables, self.one, self.plan.rounding, advanced)

    def users_in(self, number: int) -> int:
        """How many users file ``number`` has."""
        return min(self.per_file, len(self.plan.users) - number * self.per_file)


def _write(
    path: Path,
    tables: Iterable[pa.Table],
    one: int,
    rounding: Rounding | None,
    advanced: Callable[[int], object],
) -> None:
    """Write tables into a file. Some are written while the next are computed."""
    file: ShardFile | None = None
    with ThreadPoolExecutor(1) as writer:
        waiting: deque[Future[None]] = deque()
        try:
            for table in tables:
                file = file or ShardFile(path, table.schema, one, rounding)
                waiting.append(writer.submit(file.write, table))
                advanced(len(table))
                if len(waiting) > _BEHIND:
                    waiting.popleft().result()
            while waiting:
                waiting.popleft().result()
            assert file is not None  # a plan has users
            file.close()
        except BaseException:
            if file is not None:
                writer.submit(file.abandon).result()  # after what is being written
            raise
