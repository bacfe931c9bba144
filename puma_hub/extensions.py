"""What people extend, by name: strategies, file formats, data sets, baselines, engines, experiments and others.

Each is one file that holds a function, and one line at the end of this file that names it. The line names the function
as text, ``"module:function"``, as entry points of packages do: the command line shows all names without importing
torch, and what is behind a name is imported when it is first used. In one's own program,
``STRATEGIES.register("mine", function, "what it does")`` does the same with the function itself.

The options of an extension are the keyword-only parameters of its function.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from puma_hub.errors import ConfigurationError, shown


@dataclass(frozen=True)
class Extension:
    """One registered function.

    Args:
        name: what it is chosen by.
        target: the function, or ``"module:function"`` where it stands.
        about: what it does, in a few words, for help texts.
        endings: of a file format, the endings of its files, such as ``.csv``.
        arguments: keyword arguments that the name stands for, where one function has several names.
        files: of a data set, the names of its publisher's files.
    """

    name: str
    target: Callable[..., Any] | str
    about: str
    endings: tuple[str, ...] = ()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[str, ...] = ()

    def load(self) -> Callable[..., Any]:
        """The function itself, with its arguments set."""
        found: Any = self.target
        if isinstance(found, str):
            module, _, function = found.partition(":")
            found = getattr(importlib.import_module(module), function)
        loaded: Callable[..., Any] = partial(found, **self.arguments) if self.arguments else found
        return loaded


class Registry(Mapping[str, Extension]):
    """Extensions of one kind, by name and in the order of their registration.

    Args:
        kind: what they are, in the singular, for messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._found: dict[str, Extension] = {}

    def register(
        self,
        name: str,
        target: Callable[..., Any] | str,
        about: str,
        *,
        endings: tuple[str, ...] = (),
        arguments: Mapping[str, Any] | None = None,
        files: tuple[str, ...] = (),
    ) -> None:
        """Add one.

        Raises:
            ConfigurationError: the name, or a file ending, is registered already.
        """
        if name in self._found:
            raise ConfigurationError(f"the {self.kind} {name!r} is registered already; choose another name")
        for ending in endings:
            if (owner := self.by_ending(ending)) is not None:
                raise ConfigurationError(f"files ending in {ending} are read as {owner!r} already; choose another")
        self._found[name] = Extension(name, target, about, endings, arguments or {}, files)

    def unregister(self, name: str) -> None:
        """Take one away again.

        Raises:
            ConfigurationError: there is none of that name.
        """
        del self._found[self.require(name).name]

    def require(self, name: object) -> Extension:
        """The extension of that name.

        Raises:
            ConfigurationError: there is none.
        """
        if not isinstance(name, str) or name not in self._found:
            raise ConfigurationError(f"unknown {self.kind} {shown(name)}; choose one of {', '.join(self)}")
        return self._found[name]

    def bound(self, name: str, options: Mapping[str, Any]) -> Callable[..., Any]:
        """The function of that name with its options set.

        Raises:
            ConfigurationError: there is none of that name, or it has no such option.
        """
        function = self.require(name).load()
        known = self.options(name)
        strange = [option for option in options if option not in known]
        if strange:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise ConfigurationError(f"the {self.kind} {name!r} has no option {', '.join(map(shown, strange))}; {has}")
        return partial(function, **options)

    def options(self, name: str) -> list[str]:
        """The names of its options."""
        extension = self.require(name)
        parameters = inspect.signature(extension.load()).parameters.values()
        return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name not in extension.arguments]

    def by_ending(self, ending: str) -> str | None:
        """The name of the file format with that ending, in any case; None where there is none."""
        wanted = ending.lower()
        return next((one.name for one in self._found.values() if wanted in one.endings), None)

    def by_file(self, name: str) -> str | None:
        """The name of the first data set one of whose files is called so; None where there is none."""
        return next((one.name for one in self._found.values() if name in one.files), None)

    def __getitem__(self, name: str) -> Extension:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


STRATEGIES = Registry("strategy")
"""``(bank, interactions, budget, seed, *, options) -> row numbers in the bank``, see :func:`puma_hub.select_users`."""
STRATEGIES.register("puma", "puma_hub.selection.puma:puma", "k-means and variance strata, the paper's sizes")
STRATEGIES.register("puma-seed", "puma_hub.selection.puma:puma_seed", "50 clusters, terciles weighted 1:2:1")
STRATEGIES.register("random", "puma_hub.selection.at_random:at_random", "every user with the same chance")
STRATEGIES.register("variance", "puma_hub.selection.buckets:variance", "strata of label variance")
STRATEGIES.register("loss", "puma_hub.selection.buckets:loss", "strata of the source LLM's loss")
STRATEGIES.register("kmeans", "puma_hub.selection.kmeans:kmeans", "clusters of prompts")
STRATEGIES.register("kmeans-pca", "puma_hub.selection.kmeans:kmeans_pca", "clusters of their principal components")
STRATEGIES.register("kmeans-fps", "puma_hub.selection.kmeans:kmeans_fps", "the farthest points of each cluster")
STRATEGIES.register("kmeans-loss", "puma_hub.selection.puma:kmeans_loss", "clusters, and strata of loss")
STRATEGIES.register("ffn-kmeans", "puma_hub.selection.ffn:ffn_kmeans", "clusters of FFN activations")
STRATEGIES.register("ffn-loss", "puma_hub.selection.ffn:ffn_loss", "these, and strata of loss")
STRATEGIES.register("ffn-variance", "puma_hub.selection.ffn:ffn_variance", "these, and variance strata")
STRATEGIES.register("d-optimal", "puma_hub.selection.optimal_design:d_optimal", "the most information on a linear map")
STRATEGIES.register(
    "v-optimal", "puma_hub.selection.optimal_design:v_optimal", "its least mean variance over all users"
)

FORMATS = Registry("file format")
"""``(path, *, options) -> pyarrow.Table`` of one file, its text cells as they stand."""
FORMATS.register(
    "csv",
    "puma_hub.data.csv_file:read_csv",
    "cells apart by , ; tab :: or |",
    endings=(".csv", ".tsv", ".tab", ".txt", ".dat"),
)
FORMATS.register(
    "json",
    "puma_hub.data.json_file:read_json",
    "an object a line, or one document",
    endings=(".json", ".jsonl", ".ndjson"),
)
FORMATS.register("parquet", "puma_hub.data.parquet_file:read_parquet", "Apache Parquet", endings=(".parquet", ".pq"))

DATASETS = Registry("data set")
"""``(folder, *, options) -> datasets.Dataset``, its splits by name, or :class:`~puma_hub.data.raw_files.RawRows` of
either, from the files as their publisher has them."""
DATASETS.register(
    "movielens-100k",
    "puma_hub.data.movielens:read_100k",
    "ratings of films: of puma-hub fetch, or of GroupLens",
    files=("ml-100k.zip", "u.data", "u.item"),
)
for _name in ("1m", "25m", "32m", "latest-small"):
    DATASETS.register(
        f"movielens-{_name}",
        "puma_hub.data.movielens_releases:read_release",
        f"ratings of films: ml-{_name}.zip of GroupLens",
        arguments={"release": f"ml-{_name}"},
        files=(f"ml-{_name}.zip",),
    )
DATASETS.register(
    "yelp",
    "puma_hub.data.yelp:read_yelp",
    "ratings of businesses: the Yelp Open Dataset",
    files=("yelp_academic_dataset_review.json", "yelp_academic_dataset_business.json"),
)
DATASETS.register(
    "mind",
    "puma_hub.data.mind:read_mind",
    "clicks on headlines: MIND large or small, train and dev",
    files=("behaviors.tsv", "news.tsv"),
)
_AMAZON_CATEGORIES = (
    "All_Beauty",
    "Amazon_Fashion",
    "Appliances",
    "Arts_Crafts_and_Sewing",
    "Automotive",
    "Baby_Products",
    "Beauty_and_Personal_Care",
    "Books",
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Digital_Music",
    "Electronics",
    "Gift_Cards",
    "Grocery_and_Gourmet_Food",
    "Handmade_Products",
    "Health_and_Household",
    "Health_and_Personal_Care",
    "Home_and_Kitchen",
    "Industrial_and_Scientific",
    "Kindle_Store",
    "Magazine_Subscriptions",
    "Movies_and_TV",
    "Musical_Instruments",
    "Office_Products",
    "Patio_Lawn_and_Garden",
    "Pet_Supplies",
    "Software",
    "Sports_and_Outdoors",
    "Subscription_Boxes",
    "Tools_and_Home_Improvement",
    "Toys_and_Games",
    "Video_Games",
    "Unknown",
)
for _name in _AMAZON_CATEGORIES:
    DATASETS.register(
        "amazon-movies" if _name == "Movies_and_TV" else f"amazon-{_name.lower().replace('_', '-')}",
        "puma_hub.data.amazon:read_amazon",
        f"ratings of Amazon Reviews 2023, category {_name}",
        arguments={"category": _name},
        files=(f"{_name}.jsonl", f"meta_{_name}.jsonl"),
    )

BASELINES = Registry("baseline")
"""``(train, rows) -> predictions float64 (N,)`` of the labels of ``rows``, without a language model.

One that raises :class:`puma_hub.errors.MissingDependencyError` is left out, with a line in the log."""
BASELINES.register("global_mean", "puma_hub.evaluation.baselines:global_mean", "global mean")
BASELINES.register("user_mean", "puma_hub.evaluation.baselines:user_mean", "user mean")
BASELINES.register("user_item_bias", "puma_hub.evaluation.baselines:user_item_bias", "user + item bias")
BASELINES.register(
    "matrix_factorization",
    "puma_hub.evaluation.matrix_factorization:matrix_factorization",
    "matrix factorisation",
)

ENGINES = Registry("engine")
"""``(adapter, batches, references, *, options) -> mapped batches``, see :mod:`puma_hub.migration.engine`."""
ENGINES.register("torch", "puma_hub.migration.engine:in_torch", "one batch after another on the adapter's device")
ENGINES.register("ray", "puma_hub.migration.ray_files:in_ray", "files to files on a Ray cluster (puma_hub[ray])")

SERVING_BACKENDS = Registry("back end")
"""``(setting, *, options) -> Backend`` of the HTTP service, see :mod:`puma_hub.serving.service.backend`."""
SERVING_BACKENDS.register("local", "puma_hub.serving.service.local:LocalBackend", "the LLM runs in this process")
SERVING_BACKENDS.register(
    "vllm", "puma_hub.serving.service.vllm:VllmBackend", "the LLM runs in a vLLM server at --option url=ADDRESS"
)

STAND_INS = Registry("stand-in")
"""``(banks, users, centers) -> fill`` for users whom a source bank lacks, see :mod:`puma_hub.migration.missing`."""
STAND_INS.register("mean", "puma_hub.migration.missing:mean_prompt", "the mean prompt of the bank")
STAND_INS.register(
    "predict", "puma_hub.migration.predicted:predicted_prompt", "predicted from the other banks by ridge regression"
)

WARM_STARTS = Registry("warm start")
"""``(source, target, *, options) -> map (d_target, d_source)`` from embeddings of shared tokens, float32 ``(n, d)``."""
WARM_STARTS.register("ridge", "puma_hub.adapter.linear_maps:ridge", "least squares")
WARM_STARTS.register("procrustes", "puma_hub.adapter.linear_maps:procrustes", "the nearest rotation")
WARM_STARTS.register("anchors", "puma_hub.adapter.linear_maps:anchors", "position relative to shared tokens")

EXPERIMENTS = Registry("experiment")
"""``(config) -> Experiment``: a class, see :mod:`puma_hub.reproduce.experiment`."""
EXPERIMENTS.register("table2", "puma_hub.reproduce.table2:Table2", "all users, beside all baselines")
EXPERIMENTS.register("table3", "puma_hub.reproduce.table3:Table3", "cost of retraining and of an adapter")
EXPERIMENTS.register("table4", "puma_hub.reproduce.table4:Table4", "strategies of selection at one budget")
EXPERIMENTS.register("figure3", "puma_hub.reproduce.figure3:Figure3", "error by budget")
EXPERIMENTS.register("figure4", "puma_hub.reproduce.figure4:Figure4", "gain over retraining, by pair of models")
EXPERIMENTS.register("figure5", "puma_hub.reproduce.figure5:Figure5", "a chain of migrations")
EXPERIMENTS.register("figure6", "puma_hub.reproduce.figure6:Figure6", "two sources aggregated")
EXPERIMENTS.register(
    "cold-start", "puma_hub.reproduce.cold_start:ColdStartExperiment", "newcomers, by the number of their rows"
)
EXPERIMENTS.register("label-free", "puma_hub.reproduce.label_free:LabelFree", "what the adapter learns from")
EXPERIMENTS.register("controls", "puma_hub.reproduce.controls:ControlsExperiment", "whether what is moved is personal")

BENCHMARKS = Registry("benchmark")
"""``(setting) -> measured figures``, see :class:`puma_hub.benchmarks.setting.BenchSetting`."""
BENCHMARKS.register("step", "puma_hub.benchmarks.step:bench_step", "a training step of an adapter")
BENCHMARKS.register("start", "puma_hub.benchmarks.language_model:bench_start", "the Gauss-Newton start of an adapter")
BENCHMARKS.register("prefix", "puma_hub.benchmarks.language_model:bench_prefix", "reading items' texts into the cache")
BENCHMARKS.register("budget", "puma_hub.benchmarks.budget:bench_budget", "a prefix cache with little memory")
BENCHMARKS.register("score", "puma_hub.benchmarks.language_model:bench_score", "scoring rows")
BENCHMARKS.register("select", "puma_hub.benchmarks.prompts:bench_select", "choosing users")
BENCHMARKS.register("migrate", "puma_hub.benchmarks.prompts:bench_migrate", "migrating a bank, disk to disk")
BENCHMARKS.register("bank", "puma_hub.benchmarks.prompts:bench_bank", "opening, looking up and saving")
BENCHMARKS.register("store", "puma_hub.benchmarks.store:bench_store", "a keyed store: writing, opening, look-ups")
BENCHMARKS.register("import", "puma_hub.benchmarks.prompts:bench_import", "starting")
