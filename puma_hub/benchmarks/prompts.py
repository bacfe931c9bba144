"""What is done with many users' prompts: selecting, migrating, opening and looking up. No LLM takes part."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from puma_hub.adapter import PumaAdapter, PumaConfig
from puma_hub.adapter.trained_on import SourceBank, TrainedOn
from puma_hub.bank import PromptBank, Provenance
from puma_hub.bank.shard_file import ShardFile
from puma_hub.benchmarks.measured import Measured, seconds_of
from puma_hub.benchmarks.setting import BenchSetting
from puma_hub.identity import ModelSpec
from puma_hub.migration import migrate_to
from puma_hub.selection import select_users

SOURCE, TARGET = 576, 640  # SmolLM2-135M and Gemma-3-270M
_AT_ONCE, _FEW, _MOST_STRAIGHTFORWARD = 4096, 2000, 100_000


def bench_migrate(setting: BenchSetting) -> Iterator[Measured]:
    """Users a second, disk to disk, of an adapter with its non-linear branch and of one that is linear.

    Straightforward: ``datasets`` maps rows through the adapter, 1,000 at once, and writes Parquet. The limits are the
    bare matrix products of the adapter, and reading and writing the same files without computing.
    """
    bank = source_bank(setting)
    for linear in (False, True):
        adapter = _adapter(bank, linear)
        products = [weight for weight in adapter.parameters() if weight.ndim == 2 and len(weight) > 1]
        products = [weight for weight in products if weight.shape[1] in (SOURCE, adapter.config.hidden_size)]
        if linear:
            products = [weight for weight in products if tuple(weight.shape) == (TARGET, SOURCE)]
        bare = _AT_ONCE / seconds_of(_products(products), 1.0)
        began = time.perf_counter()
        migrate_to(setting.folder / "target", adapter, bank)
        ours = len(bank) / (time.perf_counter() - began)
        slow = _FEW / seconds_of(lambda: _straightforward(setting.folder, adapter, bank), 0.0)  # noqa: B023
        what = "linear adapter" if linear else "adapter with its non-linear branch"
        yield Measured(f"{len(bank)} users, {what}", "users/s", ours, slow, bare, "limit: bare matrix products")
        copied = len(bank) / seconds_of(lambda: _copy(setting.folder), 0.0)
        yield Measured("the same", "users/s", ours, None, copied, "limit: reading and writing Parquet")


def bench_bank(setting: BenchSetting) -> Iterator[Measured]:
    """Opening a bank, looking a user up, and saving. Straightforward: ``datasets`` on the same Parquet files."""
    bank = source_bank(setting)
    folder = setting.folder / "source"
    files = [str(path) for path in sorted(folder.glob("data/*.parquet"))]

    def load() -> datasets.Dataset:
        return datasets.Dataset.from_parquet(files, cache_dir=str(setting.folder / "cache"), keep_in_memory=True)

    opened = seconds_of(lambda: PromptBank.from_pretrained(folder), setting.seconds / 8)
    slow = seconds_of(load, 0.0)
    yield Measured(f"open {len(bank)} users", "s", opened, slow, note="straightforward: all into memory")
    rows, ids = load(), bank.user_ids
    some = iter(np.random.default_rng(0).integers(len(bank), size=1 << 20).tolist())
    one = 1e3 * seconds_of(lambda: bank[ids[next(some)]], setting.seconds / 8)
    scan = 1e3 * seconds_of(lambda: rows.filter(lambda user: user == ids[7], input_columns="user_id")["prompt"][0], 0.0)
    yield Measured("look up a user", "ms", one, scan, note="straightforward: a filter on user_id")
    few = bank.select(ids[: min(len(ids), 20_000)])
    saved = few.prompts.nbytes / 1e9 / seconds_of(lambda: few.save_pretrained(setting.folder / "few"), 1.0)
    parquet = few.prompts.nbytes / 1e9 / seconds_of(lambda: few.dataset.to_parquet(setting.folder / "few.parquet"), 1.0)
    yield Measured("save", "GB/s", saved, parquet, note="straightforward: Dataset.to_parquet")


def bench_select(setting: BenchSetting) -> Iterator[Measured]:
    """Seconds of choosing a hundredth of the users. Straightforward: KMeans of sklearn, 50 clusters.

    That is left out beyond 100,000 users, where it takes minutes.
    """
    from sklearn.cluster import KMeans

    bank = source_bank(setting)
    rng = np.random.default_rng(0)
    owners = np.repeat(np.arange(len(bank)), 5)
    rows = datasets.Dataset.from_dict(
        {
            "user_id": np.array(bank.user_ids)[owners],
            "item_id": np.char.mod("i%d", rng.integers(1000, size=len(owners))),
            "item_text": ["an item"] * len(owners),
            "label": rng.integers(1, 6, size=len(owners)).astype(float).tolist(),
        }
    )
    budget = max(1, len(bank) // 100)
    slow = None
    if len(bank) <= _MOST_STRAIGHTFORWARD:
        began = time.perf_counter()
        KMeans(50, random_state=0).fit(bank.prompts.reshape(len(bank), -1))
        slow = time.perf_counter() - began
    for strategy in ("random", "puma", "puma-seed", "kmeans-fps"):
        began = time.perf_counter()
        select_users(bank, rows, strategy, budget, 0)
        yield Measured(f"{strategy}: {budget} of {len(bank)} users", "s", time.perf_counter() - began, slow)


def bench_import(setting: BenchSetting) -> Iterator[Measured]:
    """Seconds until the package is there and until the command line answers. Limit: an empty Python."""
    empty = seconds_of(_python("pass"), setting.seconds / 8)
    found = seconds_of(_python("import puma_hub"), setting.seconds / 8)
    other = seconds_of(_python("import transformers, torch"), setting.seconds / 8)
    yield Measured("import puma_hub", "s", found, other, empty, "straightforward: import transformers, torch")
    shown = seconds_of(_python("import sys; from puma_hub.cli.main import main; sys.exit(main(['--help']))"), 1.0)
    yield Measured("puma-hub --help", "s", shown, other, empty)


def _python(program: str) -> Callable[[], None]:
    def run() -> None:
        subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.DEVNULL)

    return run


def source_bank(setting: BenchSetting) -> PromptBank:
    folder = setting.folder / "source"
    if not (folder / "bank.json").is_file():
        setting.say(f"writing prompts of {setting.users} users")
        rng = np.random.default_rng(0)
        batches = (
            (
                [f"user-{number:09d}" for number in range(start, min(start + _AT_ONCE, setting.users))],
                rng.standard_normal((min(_AT_ONCE, setting.users - start), 1, SOURCE), dtype=np.float32),
            )
            for start in range(0, setting.users, _AT_ONCE)
        )
        PromptBank.from_batches(folder, batches, Provenance(ModelSpec("source", SOURCE), 1))
    return PromptBank.from_pretrained(folder)


def _adapter(bank: PromptBank, linear: bool) -> PumaAdapter:
    torch.manual_seed(0)
    adapter = PumaAdapter(PumaConfig(sources=[bank.model], target=ModelSpec("target", TARGET)))
    known = bank.statistics
    assert known is not None
    adapter.standardize(torch.from_numpy(known.mean.copy()), [known.spread], 1.0)
    adapter.config.trained_on = TrainedOn((SourceBank(known.base_id, known.spread, len(bank)),), 9.0, 1.0, len(bank))
    if linear:
        with torch.no_grad():
            for weight in list(adapter.network.parameters())[4:6]:  # of the branch's last layer
                weight.zero_()
    return adapter.eval()


def _products(weights: Sequence[torch.Tensor]) -> Callable[[], None]:
    inputs = {size: torch.randn(_AT_ONCE // 4, size) for size in {weight.shape[1] for weight in weights}}

    @torch.no_grad()
    def run() -> None:
        for _ in range(4):
            for weight in weights:
                inputs[weight.shape[1]] @ weight.T

    return run


def _straightforward(folder: Path, adapter: PumaAdapter, bank: PromptBank) -> None:
    files = [str(path) for path in sorted((folder / "source").glob("data/*.parquet"))]
    rows = datasets.Dataset.from_parquet(files[0], cache_dir=str(folder / "cache"), keep_in_memory=True)

    @torch.no_grad()
    def mapped(batch: dict[str, list[list[float]]]) -> dict[str, list[list[float]]]:
        prompts = torch.tensor(batch["prompt"]).view(-1, 1, SOURCE)
        return {"prompt": adapter(prompts).target_prompts[:, 0].tolist()}

    few = rows.select(range(min(_FEW, len(rows)))).map(mapped, batched=True, batch_size=1000, keep_in_memory=True)
    few.to_parquet(folder / "straightforward.parquet")


def _copy(folder: Path) -> None:
    for number, path in enumerate(sorted((folder / "source").glob("data/*.parquet"))):
        source = pq.ParquetFile(path, page_checksum_verification=True)
        out: ShardFile | None = None
        for batch in source.iter_batches(_AT_ONCE):
            table = pa.Table.from_batches([batch])
            out = out or ShardFile(folder / f"copy-{number}.parquet", table.schema, 4 * SOURCE)
            out.write(table)
        assert out is not None
        out.close()
