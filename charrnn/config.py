"""All options: default, range, help text and panel in the help. Importing this module does not import torch.

The command line, the README's tables and the checks of file headers are derived from the fields of these dataclasses.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

from charrnn.errors import OptionError, opt
from charrnn.terminal import format_number, parse_minutes, unescape

Cell = Literal["lstm", "gru", "rnn"]
Optimizer = Literal["muon", "adamw"]
Size = Literal["small", "medium", "large"]
NormalForm = Literal["nfc", "nfkc", "none"]
Unit = Literal["char", "byte", "word"]

RUN, PREPARATION, BUDGET, MODEL, OPTIMIZATION, EVALUATION, REPORTS, ENDS, FILTERS, COMMON = PANELS = (
    "Run",
    "Preparation",
    "Budget: one of the three",
    "Model",
    "Optimization",
    "Evaluation and checkpoints",
    "Output",
    "Length",
    "Sampling filters",
    "Common",
)
"""The panels of a command's help, in order."""

BUDGETS = ("epochs", "steps", "minutes")
"""Options that exclude each other."""

MAX_EVALUATIONS = 10
"""Max evaluations in a budget, if `eval_every` is not set."""


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`; `open_low` and `open_high` exclude the limits."""

    low: float
    high: float
    is_whole: bool = False
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: Any) -> bool:
        if not isinstance(value, int if self.is_whole else int | float) or isinstance(value, bool):
            return False
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        if self.is_whole:
            return f"a whole number from {self.low:,} to {self.high:,}"
        low, high = format_number(self.low), format_number(self.high)
        if not (self.open_low or self.open_high):
            return f"from {low} to {high}"
        at_least, at_most = "above" if self.open_low else "at least", "below" if self.open_high else "at most"
        return f"{at_least} {low} and {at_most} {high}"


@dataclass(frozen=True)
class Choice:
    """One of several names."""

    names: tuple[str, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return "one of " + ", ".join(self.names)


@dataclass(frozen=True)
class Option:
    """How the command line declares a field.

    `parse` converts the text of a value, by default the type of the field; the value `none` represents None.
    """

    help: str
    panel: str | None = None
    limits: Interval | Choice | None = None
    flag: str | None = None
    metavar: str | None = None
    none: int | None = None
    repeatable: bool = False
    parse: Callable[[str], Any] | None = None


def option(
    default: Any,
    help: str,  # noqa: A002 (as argparse and Typer name it)
    panel: str | None = None,
    limits: Interval | Choice | None = None,
    *,
    absent: Any = ...,
    is_optional: bool = False,
    **more: Any,
) -> Any:
    """A dataclass field for an option; `more` are fields of `Option`.

    `absent` is the value for files from before the option was added; if it `is_optional`, newer files may omit it too.
    """
    metadata: dict[str, Any] = {} if absent is ... else {"absent": absent}
    metadata |= {"is_optional": True} if is_optional else {}
    return field(default=default, metadata={"option": Option(help, panel, limits, **more), **metadata})


def options_of(config: type) -> dict[str, Option]:
    """The options of a config by field name."""
    return {each.name: each.metadata["option"] for each in fields(config) if "option" in each.metadata}


def count(low: int = 1, high: int = 2**31 - 1) -> Interval:
    """Whole numbers from `low` to `high`."""
    return Interval(low, high, is_whole=True)


def positive(high: float) -> Interval:
    """Numbers above 0 up to `high`."""
    return Interval(0, high, open_low=True)


SEEDS = count(0)
WINDOWS = count(1, 2**20)
"""Limits of `score --window`."""


def check_seed(seed: object) -> None:
    """Raises: OptionError for a seed that is neither None nor within SEEDS."""
    if seed is not None and seed not in SEEDS:
        raise OptionError(f"{opt.seed} is {seed!r}: it must be {SEEDS}")


_HIDDEN_SIZE = 512
_WIDTHS = count(1, 2**16)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options; values out of their limits raise OptionError, None is not set."""

    def __post_init__(self) -> None:
        for name, option in options_of(type(self)).items():
            limits, value = option.limits, getattr(self, name)
            if limits is not None and value is not None and value not in limits:
                found = format_number(value) if isinstance(value, float) else value
                raise OptionError(f"{getattr(opt, name)} is {found}: it must be {limits}")
        for each in fields(self):  # Python callers may pass any type
            kinds, value = get_args(each.type) or (each.type,), getattr(self, each.name)
            if {bool, str, type(None)}.issuperset(kinds) and not isinstance(value, kinds):
                expected = "True or False" if bool in kinds else "a string"
                raise OptionError(f"{getattr(opt, each.name)} is {value!r}: it must be {expected}")


@dataclass(frozen=True, kw_only=True)
class PreparationConfig(Config):
    """Options for preparing a corpus."""

    encoding: str = option(
        "utf-8", "Encoding of the texts; a byte-order mark takes precedence", PREPARATION, metavar="NAME"
    )
    normalize: NormalForm = option(
        "nfc", "Unicode normal form of texts and prompts", PREPARATION, Choice(get_args(NormalForm)), absent="none"
    )
    ascii: bool = option(False, "Transliterate texts and prompts to ASCII", PREPARATION)
    lowercase: bool = option(False, "Convert texts and prompts to lower case", PREPARATION)
    min_count: int = option(1, "Map symbols seen fewer than N times to <unk>", PREPARATION, count())
    max_vocab: int | None = option(
        None, "Max vocabulary size; rarer symbols are mapped to <unk>", PREPARATION, count(2)
    )
    keep_boilerplate: bool = option(False, "Keep Project Gutenberg's header and licence", PREPARATION)
    unit: Unit = option(
        "char", "Symbols of the model: characters, bytes or words", PREPARATION, Choice(get_args(Unit)), absent="char"
    )
    separator: str | None = option(
        None, "Text between two documents, such as \\n", PREPARATION, absent=None, parse=unescape
    )
    documents: bool = option(False, "Treat each file as a document", PREPARATION, absent=False)
    drop_duplicates: bool = option(
        False, "Keep only the first of equal documents", PREPARATION, absent=False, is_optional=True
    )
    keep_order: bool = option(False, "Do not shuffle the documents", PREPARATION, absent=False)
    shuffle_seed: int = option(0, "Random seed for shuffling the documents", PREPARATION, count(0), absent=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.separator == "":
            raise OptionError(f"{opt.separator} is empty: use the text between two documents, such as \\n")
        if self.separator is not None and any("\ud800" <= char <= "\udfff" for char in self.separator):
            raise OptionError(
                f"{opt.separator} is {self.separator!a}, which is not Unicode text: use a text such as \\n"
            )
        if self.separator is not None and self.documents:
            remedy = "a document is either a part of a file or a whole file"
            raise OptionError(f"{opt.separator} and {opt.documents} exclude each other: {remedy}")
        for name in ("keep_order", "drop_duplicates"):
            if getattr(self, name) and self.separator_text is None:
                option = getattr(opt, name)(True)
                raise OptionError(f"{option} needs documents: set {opt.separator} or {opt.documents(True)}")
        if self.keeps_bytes:
            for name in ("encoding", "ascii", "lowercase", "min_count", "max_vocab"):
                if getattr(self, name) != getattr(PreparationConfig, name):
                    raise OptionError(f"{opt.unit('byte')} does not change bytes: leave {getattr(opt, name)} out")
            object.__setattr__(self, "normalize", "none")
            object.__setattr__(self, "keep_boilerplate", True)

    def differences(self, other: "PreparationConfig", names: Collection[str] | None = None) -> str:
        """The options that differ from another config, optionally only those in `names`; empty if there are none.

        >>> PreparationConfig(separator="\\n").differences(PreparationConfig())
        "separator='\\\\n'"
        """
        changed = {name: value for name, value in vars(self).items() if value != getattr(other, name)}
        return ", ".join(f"{name}={value!r}" for name, value in changed.items() if names is None or name in names)

    @property
    def keeps_bytes(self) -> bool:
        """True if the symbols are bytes, which preparation does not change."""
        return self.unit == "byte"

    @property
    def separator_text(self) -> str | None:
        """Text between two documents; None without documents."""
        return "\n" if self.documents else self.separator

    @property
    def separator_chars(self) -> int | None:
        """Length of the text between two documents; 0 if each file is a document, None without documents."""
        return len(self.separator) if self.separator is not None else 0 if self.documents else None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Config):
    """Options for the shape of a model.

    `embedding_size=None` means one-hot inputs. `hidden_size` and `dropout` are chosen at the start of a run if not set.
    """

    cell: Cell = option("lstm", "Kind of recurrent layers", MODEL, Choice(get_args(Cell)))
    hidden_size: int | None = option(None, "Units per layer; default: chosen from text and budget", MODEL, _WIDTHS)
    num_layers: int = option(1, "Number of recurrent layers", MODEL, count(1, 64))
    embedding_size: int | None = option(64, "Embedding size, 128 on a GPU; 0: one-hot inputs", MODEL, _WIDTHS, none=0)
    dropout: float | None = option(
        None,
        "Dropout probability; default: chosen from the budget",
        MODEL,
        Interval(0, 1, open_high=True),
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ModelOptions):
    """The complete shape of a model; `dropout=None` is no dropout."""

    vocab_size: int
    hidden_size: int = option(_HIDDEN_SIZE, "Units per layer", MODEL, _WIDTHS)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocab_size not in count():
            raise OptionError(f"the vocabulary has {self.vocab_size} symbols: it must have {count()}")


SIZES: Mapping[Size, Mapping[str, Any]] = {
    "small": {"hidden_size": 256, "num_layers": 1},
    "medium": {"hidden_size": _HIDDEN_SIZE, "num_layers": 1},
    "large": {"hidden_size": 1024, "num_layers": 2, "embedding_size": 128},
}
"""The presets of `--size`."""


def apply_size(options: ModelOptions, size: Size | None, given: Collection[str]) -> ModelOptions:
    """The options with the shape of a preset; options that were given are not changed.

    Without a preset the width is chosen later, unless this or another option of the shape was given.
    """
    if size is not None and size not in SIZES:
        raise OptionError(f"{opt.size} is {size!r}: it must be {Choice(tuple(SIZES))}")
    if size is not None:
        return replace(options, **{name: value for name, value in SIZES[size].items() if name not in given})
    if options.hidden_size is None and not {"cell", "num_layers", "embedding_size"}.isdisjoint(given):
        return replace(options, hidden_size=ModelConfig.hidden_size)
    return options


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """Options for training. At most one of BUDGETS is set.

    `eval_every`, `checkpoint_every` and `sample_every` count steps, `patience` counts evaluations. By default,
    evaluations are spaced evenly over the budget, each is followed by a sample, the learning rate is chosen for the
    model and the chunk, and the shape of the chunk for the device and the precision.
    """

    epochs: float | None = option(None, "Passes over the text; default: chosen from its size", BUDGET, positive(1e6))
    steps: int | None = option(None, "Training steps", BUDGET, count())
    minutes: float | None = option(
        None,
        "Training time in minutes, or as 90s, 10m, 1h30m",
        BUDGET,
        positive(1e7),
        metavar="TIME",
        parse=parse_minutes,
    )
    optimizer: Optimizer = option(
        "muon",
        "Optimizer; default: muon, adamw for pretrained weights",
        OPTIMIZATION,
        Choice(get_args(Optimizer)),
        absent="adamw",
    )
    batch_size: int | None = option(
        None,
        "Parallel streams of text; default: chosen for the device",
        OPTIMIZATION,
        count(),
    )
    seq_length: int | None = option(None, "Time steps of BPTT; default: 32, 64 on a GPU", OPTIMIZATION, count())
    learning_rate: float | None = option(
        None, "Peak learning rate; default: chosen for model and batch", OPTIMIZATION, positive(1e3)
    )
    weight_decay: float = option(0.05, "Weight decay of matrices", OPTIMIZATION, Interval(0, 1000))
    grad_clip: float = option(1.0, "Clip the gradient norm to X", OPTIMIZATION, positive(1e9))
    warmup_steps: int = option(100, "Steps of learning rate warm-up", OPTIMIZATION, count(0))
    val_fraction: float = option(0.1, "Fraction of the text held out for validation", EVALUATION, Interval(0, 0.9))
    eval_every: int | None = option(
        None, f"Steps between evaluations; default: up to {MAX_EVALUATIONS} in a run", EVALUATION, count()
    )
    patience: int | None = option(None, "Stop after N evaluations without improvement", EVALUATION, count())
    checkpoint_every: int | None = option(
        None, "Steps between checkpoints; default: one per minute", EVALUATION, count()
    )
    sample_every: int | None = option(None, "Steps between samples; default: one per evaluation", REPORTS, count())

    def __post_init__(self) -> None:
        budgets = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(budgets) > 1:
            first, second, *_ = (getattr(opt, each) for each in budgets)
            raise OptionError(f"{first} and {second} exclude each other: set one budget")
        super().__post_init__()


RECOMMENDED_TEMPERATURE = 0.5
"""Sampling temperature for readable text from a model of any size."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Config):
    """Options for sampling. Lengths are in symbols; filters that are not set are off.

    A sample ends after `max_length` symbols, after any text in `stop`, or after `lines` whole lines or `documents`
    whole documents. Symbols are rejected and drawn again if they copy `avoid_copying` characters of the corpus, or
    repeat a document of the same call (`unique`) or of the corpus (`new`). `ban` and `stop` are one text or several.
    """

    num_samples: int = option(1, "Number of independent samples", None, count())
    length: int | None = option(None, "Max symbols; default: 1000, per line or document", ENDS, count(0), flag="-n")
    lines: int | None = option(None, "Stop after N whole lines", ENDS, count())
    documents: int | None = option(None, "Stop after N whole documents, each starting with the prompt", ENDS, count())
    stop: tuple[str, ...] = option(
        (), "Stop after this text, such as \\n; repeatable", ENDS, repeatable=True, parse=unescape
    )
    temperature: float = option(1.0, "Sampling temperature; 0 is greedy", FILTERS, Interval(0, 1000), flag="-t")
    top_k: int | None = option(None, "Sample from the N most likely symbols", FILTERS, count())
    top_p: float | None = option(
        None, "Sample from the most likely symbols of total probability X", FILTERS, positive(1)
    )
    min_p: float | None = option(
        None, "Min probability, relative to that of the likeliest symbol", FILTERS, positive(1)
    )
    ban: str = option(
        "",
        "Characters never to sample, such as \\n; repeatable",
        FILTERS,
        metavar="CHARS",
        repeatable=True,
        parse=unescape,
    )
    avoid_copying: int | None = option(None, "Reject copies of N or more characters of the corpus", FILTERS, count())
    unique: bool = option(False, "Reject documents that were already sampled", FILTERS)
    new: bool = option(False, "Reject documents that are in the corpus", FILTERS)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()))
        object.__setattr__(self, "ban", "".join(self.ban or ()))
        super().__post_init__()
        if "" in self.stop:
            raise OptionError(f"{opt.stop} is empty: it must have at least one character")

    @property
    def max_length(self) -> int:
        """Max symbols of a sample: `length`, else 1,000 for each of `lines` or `documents`."""
        return 1000 * max(self.lines or 1, self.documents or 1) if self.length is None else self.length
