"""What the experiments run on, from a YAML file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from functools import cached_property
from importlib import resources
from pathlib import Path, PurePath
from typing import Any, get_args, get_origin, get_type_hints

import yaml

from puma_hub.demo.settings import DTYPES
from puma_hub.errors import ConfigurationError, StorageError, shown
from puma_hub.extensions import STRATEGIES
from puma_hub.reproduce.paper import DATA
from puma_hub.tasks import Task, task_from_dict
from puma_hub.tasks.template import PromptTemplate
from puma_hub.training import PumaTrainingArguments
from puma_hub.training.drawn_rows import ITEMS, ROWS

PRESETS = ("cpu", "paper")
LEARNS_FROM = ("catalogue", "rows", "labels")
_FEWEST_USERS = 4


@dataclass(frozen=True)
class DataConfig:
    """The interactions.

    Args:
        name: a data set by name, or a file or folder, as :func:`puma_hub.data.load_interactions` takes it.
        folder: where a named data set's files are; the cache by default.
        options: of the data set or file format.
        users: drawn with each seed.
        newcomers: more users, drawn of those who are left, whom no bank and no adapter has seen.
        rows_per_user: the most recent rows of each; all by default.
        held_out: the share of each user's rows, the last in time, that is scored.
        item_statistics: whether an item's mean label in the training rows is part of its text.
        negatives: rows without a click for each row, which is a click then; for the task ``click``.
        likes_from: ratings from this one up are clicks, and lower ones none; for the tasks ``like`` and ``click``.
    """

    name: str = "movielens-100k"
    folder: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    users: int = 200
    newcomers: int = 50
    rows_per_user: int | None = None
    held_out: float = 0.2
    item_statistics: bool = False
    negatives: int | None = None
    likes_from: float | None = None


@dataclass(frozen=True)
class AdapterConfig:
    """How adapters are trained.

    Args:
        learns_from: ``catalogue`` (what the source LLM predicts for drawn rows), ``rows`` (what it predicts for the
            users' own rows) or ``labels``.
        items: of drawn rows.
        rows: how many are drawn.
        rows_per_user: of the users' own rows, the most recent of each; all by default.
        architecture: ``seed``, ``paper`` or ``linear``.
        arguments: of :class:`puma_hub.PumaTrainingArguments`.
    """

    learns_from: str = "catalogue"
    items: int = ITEMS
    rows: int = ROWS
    rows_per_user: int | None = None
    architecture: str = "seed"
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AggregationConfig:
    """The sources that are aggregated, and the target; by default the first two models, into the second."""

    sources: list[str] = field(default_factory=list)
    target: str | None = None


@dataclass(frozen=True)
class ColdStartConfig:
    """The experiment ``cold-start``.

    Args:
        rows: numbers of rows of a newcomer.
        gradient_steps: of prompts that start at random, each on ``batch_size`` rows of the newcomers at most.
        learning_rate: of these steps, in the target LLM's own units.
    """

    rows: list[int] = field(default_factory=lambda: [0, 1, 2, 5, 10, 20])
    gradient_steps: int = 100
    batch_size: int = 64
    learning_rate: float = 0.01


@dataclass(frozen=True)
class LabelFreeConfig:
    """The experiment ``label-free``: the numbers of items, and of rows, that are tried beside the adapter's."""

    items: list[int] = field(default_factory=lambda: [60, 120, 480])
    rows: list[int] = field(default_factory=lambda: [256, 512, 1024])


@dataclass(frozen=True)
class ReproduceConfig:
    """What the experiments run on.

    Args:
        models: short names of fetched models, Hub ids or folders; the first is the source, the second the target.
        data: see :class:`DataConfig`.
        seeds: of users, trainings and selections; a run for each.
        paper: the paper's data set whose figures stand beside ours: ``amazon``, ``mind`` or ``yelp``.
        task: its name, or a dict of :meth:`puma_hub.tasks.Task.to_dict`.
        metric: one of the task's, by which experiments compare; its main metric by default.
        template: a preset or a text; the task's by default.
        dtype: of the LLMs.
        device: of the LLMs.
        llms_at_once: how many are kept in memory, with their prefix caches. Two save reading all texts again where an
            experiment goes to and fro.
        share: of the users, on whom adapters train.
        strategy: how they are selected.
        prompts: arguments of prompt training, of :class:`puma_hub.PumaTrainingArguments`.
        retrainings: further ways of retraining in ``table2`` and ``table3``: arguments by their names there.
        adapter: see :class:`AdapterConfig`.
        budgets: the shares of ``figure3``.
        budget_strategies: the strategies of ``figure3``.
        chain: the models of ``figure5`` in order; by default the first two in turn, five migrations.
        aggregation: of ``figure6``, see :class:`AggregationConfig`.
        cold_start: see :class:`ColdStartConfig`.
        label_free: see :class:`LabelFreeConfig`.

    Raises:
        ConfigurationError: a value cannot be used.
    """

    models: list[str] = field(default_factory=lambda: ["smollm2-135m", "gemma-3-270m"])
    data: DataConfig = field(default_factory=DataConfig)
    seeds: list[int] = field(default_factory=lambda: [42, 43, 44])
    paper: str = "amazon"
    task: Any = "rating"
    metric: str | None = None
    template: str | None = None
    dtype: str = "auto"
    device: str | None = None
    llms_at_once: int = 1
    share: float = 0.2
    strategy: str = "puma"
    prompts: dict[str, Any] = field(default_factory=dict)
    retrainings: dict[str, dict[str, Any]] = field(default_factory=dict)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    budgets: list[float] = field(default_factory=lambda: [0.05, 0.1, 0.2, 0.4, 0.8])
    budget_strategies: list[str] = field(default_factory=lambda: ["puma", "random"])
    chain: list[str] = field(default_factory=list)
    aggregation: AggregationConfig = field(default_factory=AggregationConfig)
    cold_start: ColdStartConfig = field(default_factory=ColdStartConfig)
    label_free: LabelFreeConfig = field(default_factory=LabelFreeConfig)

    def __post_init__(self) -> None:
        _require(len(self.models) >= 2, "models needs a source and a target", self.models)
        _require(len(set(self.models)) == len(self.models), "models names each model once", self.models)
        _require(len(set(self.seeds)) == len(self.seeds) >= 1, "seeds must be distinct, one at least", self.seeds)
        _require(self.paper in DATA, f"paper must be one of {', '.join(DATA)}", self.paper)
        _require(self.dtype in DTYPES, f"dtype must be one of {', '.join(DTYPES)}", self.dtype)
        _require(self.data.users >= _FEWEST_USERS, f"data.users must be at least {_FEWEST_USERS}", self.data.users)
        _require(self.llms_at_once >= 1, "llms_at_once must be at least 1", self.llms_at_once)
        _require(self.data.newcomers >= 0, "data.newcomers must not be negative", self.data.newcomers)
        for share in (self.share, *self.budgets):
            _require(0 < share <= 1, "share and budgets must lie above 0 and up to 1", share)
        for strategy in (self.strategy, *self.budget_strategies):
            STRATEGIES.require(strategy)
        known = self.adapter.learns_from in LEARNS_FROM
        _require(known, f"adapter.learns_from must be one of {', '.join(LEARNS_FROM)}", self.adapter.learns_from)
        for arguments in (self.prompts, self.adapter.arguments, *self.retrainings.values()):
            _require_arguments(arguments)
        strange = [name for name in (*self.chain, *self.aggregation.sources) if name not in self.models]
        _require(not strange, "chain and aggregation name models of `models`", strange)
        _require(len(self.chain) != 1, "chain needs two models at least", self.chain)
        _require(min(self.cold_start.rows, default=-1) >= 0, "cold_start.rows must be 0 or more", self.cold_start.rows)
        if self.template is not None:
            PromptTemplate.of(self.template)
        known_metrics = [metric.name for metric in self.scored_task.metrics]
        known = self.metric is None or self.metric in known_metrics
        _require(known, f"metric must be one of {', '.join(known_metrics)}", self.metric)

    def short(self, model: str) -> str:
        """A model's name without the folder or account before it, where no other model is called so."""
        names = [PurePath(one).name for one in self.models]
        own = PurePath(model).name
        return own if names.count(own) == 1 else model

    @property
    def source(self) -> str:
        return self.models[0]

    @property
    def target(self) -> str:
        return self.models[1]

    @property
    def steps(self) -> list[str]:
        """The models of the chain, the first and those it goes to."""
        return self.chain or [*self.models[:2]] * 3

    @property
    def aggregated(self) -> tuple[list[str], str]:
        """The sources that are aggregated, and the target."""
        return self.aggregation.sources or self.models[:2], self.aggregation.target or self.target

    @cached_property
    def scored_task(self) -> Task:
        return task_from_dict({"name": self.task} if isinstance(self.task, str) else self.task)

    @property
    def compared_metric(self) -> str:
        """The name of the metric by which experiments compare."""
        return self.metric or self.scored_task.metrics[0].name

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def load_config(source: str | Path) -> ReproduceConfig:
    """The configuration of a preset, or of a YAML file; what it leaves out is as in :class:`ReproduceConfig`.

    Raises:
        StorageError: there is no such file, or it cannot be read.
        ConfigurationError: it is no YAML mapping, a key is unknown, or a value cannot be used.
    """
    try:
        if source in PRESETS:
            text = (resources.files("puma_hub.reproduce") / "presets" / f"{source}.yaml").read_text(encoding="utf-8")
        else:
            text = Path(source).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot read the configuration {source}: {error}; give a YAML file") from error
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source} is no YAML: {' '.join(str(error).split())}") from error
    return config_of({} if found is None else found, str(source))


def config_of(data: Any, where: str = "the configuration") -> ReproduceConfig:
    """The configuration of plain data; raises as :func:`load_config` does."""
    made: ReproduceConfig = _made(ReproduceConfig, data, where, "")
    return made


def _made(kind: type[Any], data: Any, where: str, prefix: str) -> Any:
    if not isinstance(data, Mapping):
        raise ConfigurationError(f"{where}: {prefix.rstrip('.') or 'it'} must be a mapping, got {shown(data)}")
    known = {one.name for one in fields(kind)}
    strange = [str(name) for name in data if name not in known]
    if strange:
        names = ", ".join(f"{prefix}{name}" for name in strange)
        raise ConfigurationError(f"{where}: unknown key {names}; known are {', '.join(sorted(known))}")
    hints = get_type_hints(kind)
    values = {}
    for name, value in data.items():
        if is_dataclass(hints[name]):
            values[name] = _made(hints[name], value, where, f"{prefix}{name}.")
        else:
            values[name] = _typed(value, hints[name], f"{where}: {prefix}{name}")
    return kind(**values)


def _typed(value: Any, hint: Any, what: str) -> Any:
    """``value``, if it is of the kind that the field holds; a whole number serves as a fraction."""
    if hint is Any:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is list:
        if not isinstance(value, list):
            raise ConfigurationError(f"{what} must be a list, got {shown(value)}")
        return [_typed(part, arguments[0], what) for part in value]
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigurationError(f"{what} must be a mapping, got {shown(value)}")
        return {str(name): _typed(part, arguments[1], what) for name, part in value.items()}
    kinds = arguments or (hint,)
    fits = any(isinstance(value, kind) and (kind is bool or not isinstance(value, bool)) for kind in kinds)
    if not fits and not (float in kinds and isinstance(value, int) and not isinstance(value, bool)):
        names = " or ".join("nothing" if kind is type(None) else kind.__name__ for kind in kinds)
        raise ConfigurationError(f"{what} must be {names}, got {shown(value)}")
    return value


def _require(holds: bool, what: str, value: object) -> None:
    if not holds:
        raise ConfigurationError(f"{what}, got {shown(value)}")


def _require_arguments(arguments: Mapping[str, Any]) -> None:
    known = [one.name for one in fields(PumaTrainingArguments)]
    ours = ("output_dir", "seed", "disable_tqdm")
    strange = [name for name in arguments if name not in known or name in ours]
    if strange:
        free = ", ".join(name for name in known if name not in ours)
        raise ConfigurationError(f"unknown training argument {', '.join(strange)}; known are {free}")
    PumaTrainingArguments(**arguments)
