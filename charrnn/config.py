"""Every option's default and range, in one place that costs no import of torch.

The dataclasses here configure the files of the same names (`text.py` and `corpus.py`, `model.py`,
`training.py`, `sampling.py`); the command line reads its defaults from them.
"""

import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from charrnn.errors import CharRNNError, OptionError

Cell = Literal["lstm", "gru", "rnn"]
Size = Literal["small", "medium", "large"]

Config = TypeVar("Config", bound="PreparationConfig | ModelConfig | TrainingConfig")


def _require(condition: bool, option: str, value: object, limit: str) -> None:
    if not condition:
        raise OptionError(f"--{option.replace('_', '-')} is {value}: it must be {limit}")


def _require_counts(config: object, *names: str, at_least: int = 1, at_most: int = 2**31 - 1) -> None:
    for name in names:
        value = getattr(config, name)
        limit = f"a whole number from {at_least} to {at_most}"
        _require(value is None or (type(value) is int and at_least <= value <= at_most), name, value, limit)


@dataclass(frozen=True, kw_only=True)
class PreparationConfig:
    """How raw text becomes a corpus."""

    encoding: str = "utf-8"
    ascii: bool = False
    lowercase: bool = False
    min_count: int = 1
    max_vocab: int | None = None
    keep_boilerplate: bool = False

    def __post_init__(self) -> None:
        _require_counts(self, "min_count")
        _require_counts(self, "max_vocab", at_least=2)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a model. `embedding_size=None` means one-hot inputs; `dropout=None` drops nothing, and lets
    whoever starts a run choose it from the budget.
    """

    vocab_size: int
    cell: Cell = "lstm"
    hidden_size: int = 512
    num_layers: int = 1
    embedding_size: int | None = 64
    dropout: float | None = None

    def __post_init__(self) -> None:
        cells = typing.get_args(Cell)
        _require(self.cell in cells, "cell", self.cell, "one of " + ", ".join(cells))
        _require_counts(self, "vocab_size")
        _require_counts(self, "hidden_size", "embedding_size", at_most=2**16)
        _require_counts(self, "num_layers", at_most=64)
        _require(self.dropout is None or 0 <= self.dropout < 1, "dropout", self.dropout, "at least 0 and below 1")


_MEDIUM = {name: getattr(ModelConfig, name) for name in ("hidden_size", "num_layers", "embedding_size")}
SIZES: Mapping[Size, Mapping[str, Any]] = types.MappingProxyType(
    {
        "small": _MEDIUM | {"hidden_size": 256},
        "medium": _MEDIUM,
        "large": {"hidden_size": 1024, "num_layers": 2, "embedding_size": 128},
    }
)
"""The presets of `--size`; medium is ModelConfig's own default."""


BUDGETS = ("epochs", "steps", "minutes")
"""The options of which a run is given one."""

EVALUATIONS_A_RUN = 10
"""How many evaluations at most are spaced over a budget where `eval_every` is unset."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How a model is trained. At most one of the BUDGETS is set.

    `eval_every`, `checkpoint_every` and `sample_every` count steps, `patience` counts evaluations. Unset,
    evaluations are spaced evenly over the budget and each is followed by a sample, the learning rate follows
    from the shapes of the model and of a chunk, and the batch size from the device and its precision.
    """

    epochs: float | None = None
    steps: int | None = None
    minutes: float | None = None
    batch_size: int | None = None
    seq_length: int = 32
    learning_rate: float | None = None
    weight_decay: float = 0.05
    grad_clip: float = 1.0
    warmup_steps: int = 100
    val_fraction: float = 0.1
    eval_every: int | None = None
    patience: int | None = None
    checkpoint_every: int = 1000
    sample_every: int | None = None

    def __post_init__(self) -> None:
        budgets = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(budgets) > 1:
            raise OptionError(f"--{budgets[0]} and --{budgets[1]} exclude each other: give one budget")
        _require_counts(
            self,
            *("steps", "batch_size", "seq_length"),
            *("eval_every", "patience", "checkpoint_every", "sample_every"),
        )
        _require_counts(self, "warmup_steps", at_least=0)
        for name, limit in (("epochs", 1e6), ("minutes", 1e7), ("learning_rate", 1e3), ("grad_clip", 1e9)):
            value = getattr(self, name)
            _require(value is None or 0 < value <= limit, name, value, f"above 0 and at most {limit:g}")
        _require(0 <= self.weight_decay < math.inf, "weight_decay", self.weight_decay, "at least 0")
        _require(0 <= self.val_fraction <= 0.9, "val_fraction", self.val_fraction, "from 0 to 0.9")


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How text is drawn from a model: lengths in symbols, filters off where unset.

    `temperature` 0 takes the most likely symbol. `ban` lists characters never to be sampled. A sample ends
    after `length` symbols (unset, 1,000, or so many for each of `lines`), after any text in `stop` has appeared,
    or after `lines` whole lines. No run of
    `avoid_copying` characters of the corpus is reproduced.
    """

    length: int | None = None
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    ban: str = ""
    stop: tuple[str, ...] = ()
    lines: int | None = None
    num_samples: int = 1
    avoid_copying: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        _require_counts(self, "length", at_least=0)
        _require_counts(self, "top_k", "lines", "num_samples", "avoid_copying")
        _require(0 <= self.temperature <= 1000, "temperature", self.temperature, "from 0 to 1000")
        for name in ("top_p", "min_p"):
            value = getattr(self, name)
            _require(value is None or 0 < value <= 1, name, value, "above 0 and at most 1")
        _require("" not in self.stop, "stop", "empty", "a text of at least one character")

    @property
    def most_symbols(self) -> int:
        """After how many symbols a sample ends at the latest."""
        return 1000 * (self.lines or 1) if self.length is None else self.length


def config_from_json(kind: type[Config], values: object) -> Config:
    """Build a config from a file's header, trusting neither its keys nor its types.

    Raises: CharRNNError naming what is wrong.
    """
    hints = typing.get_type_hints(kind)
    if not isinstance(values, dict) or set(values) != set(hints):
        raise CharRNNError(f"the header's {kind.__name__} does not have the fields that it must have")
    for name, hint in hints.items():
        if not _fits(values[name], hint):
            raise CharRNNError(f"the header's {kind.__name__}.{name} is of the wrong type")
    try:
        return kind(**values)
    except OptionError as error:
        raise CharRNNError(f"the header's {kind.__name__} is out of range: {error}") from None


def _fits(value: object, hint: Any) -> bool:
    """Whether a JSON value is of an annotated type (scalars, Literal, and unions of them)."""
    if isinstance(hint, types.UnionType):
        return any(_fits(value, member) for member in typing.get_args(hint))
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if isinstance(value, bool):
        return hint is bool
    if hint is float:
        return isinstance(value, int | float) and abs(value) <= 2**53  # nor is NaN
    return isinstance(value, hint)
