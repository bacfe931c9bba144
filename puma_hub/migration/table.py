"""A migration as a function of Arrow tables, for engines of one's own such as Ray Data or Spark."""

from __future__ import annotations

import copy

import datasets
import numpy as np
import pyarrow as pa

from puma_hub.adapter import PumaAdapter
from puma_hub.adapter.mapping import PromptMap
from puma_hub.bank import PromptBank, Provenance
from puma_hub.bank.columns import as_bank_table, bank_features, prompt_values, require_finite, table_of_arrays
from puma_hub.errors import ConfigurationError
from puma_hub.migration.checks import check_banks
from puma_hub.migration.means import references_of
from puma_hub.migration.step import Step
from puma_hub.tasks import RatingHead

_AT_ONCE = 4096


class TableMigration:
    """Maps rows of a source bank to rows of the target bank: a ``pyarrow.Table`` to a ``pyarrow.Table``.

    It can be pickled, also by Ray and Spark, and called by several threads. A user's prompt has the same bits whatever
    rows are beside it. For a chain, call one after the other.

    Args:
        adapter: of one source; it is copied.
        bank: the source bank, whose facts are needed and no prompt.
        mean: see :func:`puma_hub.migrate`.

    Attributes:
        provenance: of the target bank.
        head: the target's rating head, if it has one. With ``provenance`` it makes a bank of the migrated rows:
            ``PromptBank(dataset, provenance, head)``.

    Raises:
        ConfigurationError: the adapter has several sources.
        MismatchError, BankError: see :func:`puma_hub.migrate`.
    """

    provenance: Provenance
    head: RatingHead | None

    def __init__(self, adapter: PumaAdapter, bank: PromptBank, mean: object = None) -> None:
        if len(adapter.config.sources) != 1:
            raise ConfigurationError(
                f"this adapter joins {len(adapter.config.sources)} sources, and a table holds prompts of one; migrate "
                "the banks together with puma_hub.migrate"
            )
        check_banks(adapter, [bank])
        before = (bank.provenance,)
        step = Step(adapter, before, references_of(adapter, before, mean))
        self.provenance, self.head = step.provenance(), step.head()
        self._map = PromptMap(copy.deepcopy(adapter).eval(), step.references)
        self._shape = bank.shape

    def __call__(self, table: pa.Table) -> pa.Table:
        """The rows on the target LLM, in their order: ``user_id``, ``prompt``, and further columns as they are.

        Args:
            table: with ``user_id`` and ``prompt``, lists of ``l * d`` numbers of any floating type.

        Raises:
            BankError: a column is missing or malformed, or a prompt is not finite.
            MismatchError: a prompt lies absurdly far from the mean.
        """
        rows = as_bank_table(table, bank_features(datasets.Features.from_arrow_schema(table.schema), self._shape))
        rows = rows.combine_chunks()
        chunks = rows.column("prompt").chunks
        length, size = self.provenance.prompt_length, self.provenance.model.hidden_size
        migrated = np.empty((0, length, size), np.float32)
        if chunks:
            prompts = prompt_values(chunks[0], self._shape, 0)
            require_finite(prompts, range(len(prompts)))
            starts = range(0, len(prompts), _AT_ONCE)
            migrated = np.concatenate(
                [self._map(prompts[start : start + _AT_ONCE])[0] for start in starts] or [migrated]
            )
        migrated.setflags(write=False)
        further = rows.drop_columns(["user_id", "prompt"])
        ids = rows.column("user_id").combine_chunks() if chunks else pa.array([], pa.string())
        return table_of_arrays(ids, migrated, further if further.num_columns else None)
