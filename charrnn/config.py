"""Every option: its default, range, help text and place in the help, at a cost of no import of torch.

The command line, the README's tables and the checks of a file's header follow from the fields of these dataclasses.
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

RUN, PREPARATION, BUDGET, MODEL, OPTIMISATION, EVALUATION, REPORTS, ENDS, FILTERS, COMMON = PANELS = (
    "The run",
    "How raw text is read",
    "The budget: one of the three",
    "The model",
    "The optimisation",
    "Evaluation and checkpoints",
    "Reports",
    "Where to end",
    "Which symbols",
    "Common",
)
"""The parts of a command's help, in their order."""

BUDGETS = ("epochs", "steps", "minutes")
"""The options of which a run is given one."""

MAX_EVALUATIONS = 10
"""Evaluations that are spaced over a budget at most, where `eval_every` is unset."""


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, without those themselves where they are open."""

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
    """One of some names."""

    names: tuple[str, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.names

    def __str__(self) -> str:
        return "one of " + ", ".join(self.names)


@dataclass(frozen=True)
class Option:
    """The declaration of a field for the command line.

    `parse` reads a value, by default the field's type does; `none` represents None.
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

    `absent` is the value in files that were written before there was the option; if it `is_optional`, newer files
    leave it out too.
    """
    metadata: dict[str, Any] = {} if absent is ... else {"absent": absent}
    metadata |= {"is_optional": True} if is_optional else {}
    return field(default=default, metadata={"option": Option(help, panel, limits, **more), **metadata})


def options_of(config: type) -> dict[str, Option]:
    """The options of a config's fields, by name."""
    return {each.name: each.metadata["option"] for each in fields(config) if "option" in each.metadata}


def count(low: int = 1, high: int = 2**31 - 1) -> Interval:
    """Whole numbers from `low` to `high`."""
    return Interval(low, high, is_whole=True)


def positive(high: float) -> Interval:
    """Numbers above 0 up to `high`."""
    return Interval(0, high, open_low=True)


WINDOWS = count(1, 2**20)
"""Symbols after which `score --window` empties the state."""

_HIDDEN_SIZE = 512
_WIDTHS = count(1, 2**16)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options whose values are within their limits, or unset. Raises: OptionError."""

    def __post_init__(self) -> None:
        for name, option in options_of(type(self)).items():
            limits, value = option.limits, getattr(self, name)
            if limits is not None and value is not None and value not in limits:
                found = format_number(value) if isinstance(value, float) else value
                raise OptionError(f"{getattr(opt, name)} is {found}: it must be {limits}")


@dataclass(frozen=True, kw_only=True)
class PreparationConfig(Config):
    """Options for turning raw text into a corpus."""

    encoding: str = option("utf-8", "The texts' encoding; a byte-order mark is honoured.", PREPARATION, metavar="NAME")
    normalize: NormalForm = option(
        "nfc", "The Unicode normal form, in prompts too.", PREPARATION, Choice(get_args(NormalForm)), absent="none"
    )
    ascii: bool = option(False, "Transliterate to ASCII, in prompts too.", PREPARATION)
    lowercase: bool = option(False, "Fold case, in prompts too.", PREPARATION)
    min_count: int = option(1, "Rarer symbols become one unknown symbol, which is never sampled.", PREPARATION, count())
    max_vocab: int | None = option(
        None, "Keep the most frequent symbols only, N with the unknown one.", PREPARATION, count(2)
    )
    keep_boilerplate: bool = option(False, "Keep Project Gutenberg's header and licence.", PREPARATION)
    unit: Unit = option("char", "The meaning of an index.", PREPARATION, Choice(get_args(Unit)), absent="char")
    separator: str | None = option(
        None, "The text between documents, such as \\n.", PREPARATION, absent=None, parse=unescape
    )
    documents: bool = option(False, "Each file is a document.", PREPARATION, absent=False)
    drop_duplicates: bool = option(
        False, "Keep the first of equal documents only.", PREPARATION, absent=False, is_optional=True
    )
    keep_order: bool = option(False, "Do not shuffle the documents.", PREPARATION, absent=False)
    shuffle_seed: int = option(0, "The documents' order follows from it.", PREPARATION, count(0), absent=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.separator == "":
            raise OptionError(f"{opt.separator} is empty: give the text between two documents, such as \\n")
        if self.separator is not None and any("\ud800" <= char <= "\udfff" for char in self.separator):
            raise OptionError(
                f"{opt.separator} is {self.separator!a}, which is no Unicode text: give some, such as \\n"
            )
        if self.separator is not None and self.documents:
            remedy = "a document is a part of a file, or all"
            raise OptionError(f"{opt.separator} and {opt.documents} exclude each other: {remedy}")
        for name in ("keep_order", "drop_duplicates"):
            if getattr(self, name) and self.border_text is None:
                option = getattr(opt, name)(True)
                raise OptionError(f"{option} is for documents: give {opt.separator} or {opt.documents(True)}")
        if self.keeps_bytes:
            for name in ("encoding", "ascii", "lowercase", "min_count", "max_vocab"):
                if getattr(self, name) != getattr(PreparationConfig, name):
                    raise OptionError(f"{opt.unit('byte')} takes bytes as they are: leave {getattr(opt, name)} out")
            object.__setattr__(self, "normalize", "none")
            object.__setattr__(self, "keep_boilerplate", True)

    def differences(self, other: "PreparationConfig", names: Collection[str] | None = None) -> str:
        """The options in which this differs from another, all or those of these names; empty if they agree.

        >>> PreparationConfig(separator="\\n").differences(PreparationConfig())
        "separator='\\\\n'"
        """
        changed = {name: value for name, value in vars(self).items() if value != getattr(other, name)}
        return ", ".join(f"{name}={value!r}" for name, value in changed.items() if names is None or name in names)

    @property
    def keeps_bytes(self) -> bool:
        """True if bytes are taken as they are."""
        return self.unit == "byte"

    @property
    def border_text(self) -> str | None:
        """The text that stands for the border between two documents; None if there are no documents."""
        return "\n" if self.documents else self.separator

    @property
    def border_chars(self) -> int | None:
        """The characters of text that a border takes the place of: none between files."""
        return len(self.separator) if self.separator is not None else 0 if self.documents else None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Config):
    """The shape of a model as far as it is given.

    `embedding_size=None` means one-hot inputs. Unset, the width and the dropout are chosen as a run is started.
    """

    cell: Cell = option("lstm", "The kind of layers.", MODEL, Choice(get_args(Cell)))
    hidden_size: int | None = option(
        None, f"Units of a layer; default: chosen, or {_HIDDEN_SIZE} beside other options of the shape.", MODEL, _WIDTHS
    )
    num_layers: int = option(1, "Stacked layers.", MODEL, count(1, 64))
    embedding_size: int | None = option(
        64, "Size of a symbol's vector, 128 on a GPU; 0: one-hot.", MODEL, _WIDTHS, none=0
    )
    dropout: float | None = option(
        None,
        "Share of outputs dropped in training; default: chosen from the budget.",
        MODEL,
        Interval(0, 1, open_high=True),
    )


@dataclass(frozen=True, kw_only=True)
class ModelConfig(ModelOptions):
    """The shape of a model with nothing left open; `dropout=None` drops nothing."""

    vocab_size: int
    hidden_size: int = option(_HIDDEN_SIZE, "Units of a layer.", MODEL, _WIDTHS)

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
    """The options with the shape of a preset, but for those that were given.

    Without a preset the width stays open, unless it or another option of the shape was given.
    """
    if size is not None:
        return replace(options, **{name: value for name, value in SIZES[size].items() if name not in given})
    if options.hidden_size is None and not {"cell", "num_layers", "embedding_size"}.isdisjoint(given):
        return replace(options, hidden_size=ModelConfig.hidden_size)
    return options


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(Config):
    """Options for training. At most one of the BUDGETS is set.

    `eval_every`, `checkpoint_every` and `sample_every` count steps, `patience` counts evaluations. Unset,
    evaluations are spaced evenly over the budget and each is followed by a sample, the learning rate follows
    from the shapes of the model and of a chunk, and those of a chunk from the device and its precision.
    """

    epochs: float | None = option(None, "Passes over the text; default: chosen from its size.", BUDGET, positive(1e6))
    steps: int | None = option(None, "Updates of the weights.", BUDGET, count())
    minutes: float | None = option(
        None,
        "Wall-clock time, evaluations included: minutes, or 90s, 10m, 1h30m.",
        BUDGET,
        positive(1e7),
        metavar="TIME",
        parse=parse_minutes,
    )
    optimizer: Optimizer = option(
        "muon",
        "Optimizer; default: muon, for trained weights adamw.",
        OPTIMISATION,
        Choice(get_args(Optimizer)),
        absent="adamw",
    )
    batch_size: int | None = option(
        None,
        "Parallel streams of text; default: 32, with AdamW in float32 on a CPU 16, on a GPU up to 128.",
        OPTIMISATION,
        count(),
    )
    seq_length: int | None = option(
        None, "Symbols that gradients reach back through; default: 32, on a GPU 64.", OPTIMISATION, count()
    )
    learning_rate: float | None = option(
        None, "Peak learning rate; default: chosen, lower for trained weights.", OPTIMISATION, positive(1e3)
    )
    weight_decay: float = option(0.05, "Weight decay, on matrices only.", OPTIMISATION, Interval(0, 1000))
    grad_clip: float = option(1.0, "Clip the gradient norm to X.", OPTIMISATION, positive(1e9))
    warmup_steps: int = option(100, "Steps in which the learning rate rises.", OPTIMISATION, count(0))
    val_fraction: float = option(0.1, "The last part of the text, which validates.", EVALUATION, Interval(0, 0.9))
    eval_every: int | None = option(
        None, f"Steps between evaluations; default: at most {MAX_EVALUATIONS} in a run.", EVALUATION, count()
    )
    patience: int | None = option(None, "Stop after N evaluations without progress.", EVALUATION, count())
    checkpoint_every: int | None = option(
        None, "Steps between checkpoints; default: one per minute.", EVALUATION, count()
    )
    sample_every: int | None = option(None, "Steps between samples; default: one at each evaluation.", REPORTS, count())

    def __post_init__(self) -> None:
        budgets = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(budgets) > 1:
            first, second, *_ = (getattr(opt, each) for each in budgets)
            raise OptionError(f"{first} and {second} exclude each other: give one budget")
        super().__post_init__()


RECOMMENDED_TEMPERATURE = 0.5
"""Sampling temperature for readable text from a model of any size."""


@dataclass(frozen=True, kw_only=True)
class SamplingConfig(Config):
    """Options for sampling: lengths in symbols, filters off where unset.

    A sample ends after `max_length` symbols, after any text in `stop` has appeared, or after `lines` whole lines or
    `documents` whole documents. It is drawn again from where it reproduces `avoid_copying` characters of the corpus,
    or where with `unique` or `new` it repeats a document of the same call or of the corpus. `ban` and `stop` may be one
    text or several.
    """

    num_samples: int = option(1, "Independent samples, computed together.", None, count())
    length: int | None = option(
        None, "Symbols to sample in all; default: 1000 per line or document.", ENDS, count(0), flag="-n"
    )
    lines: int | None = option(None, "End after N whole lines.", ENDS, count())
    documents: int | None = option(None, "N whole documents; each begins with the prompt.", ENDS, count())
    stop: tuple[str, ...] = option(
        (), "End after this text, such as \\n; repeatable.", ENDS, repeatable=True, parse=unescape
    )
    temperature: float = option(
        1.0, "Below 1 plays safe, above 1 dares; 0 takes the most likely symbol.", FILTERS, Interval(0, 1000), flag="-t"
    )
    top_k: int | None = option(None, "Only the N most likely symbols.", FILTERS, count())
    top_p: float | None = option(None, "Only the most likely symbols that reach X in sum.", FILTERS, positive(1))
    min_p: float | None = option(
        None, "Only symbols at least X times as likely as the likeliest.", FILTERS, positive(1)
    )
    ban: str = option(
        "",
        "Never these characters, such as \\n; repeatable.",
        FILTERS,
        metavar="CHARS",
        repeatable=True,
        parse=unescape,
    )
    avoid_copying: int | None = option(
        None, "Draw again what copies N successive characters of the corpus.", FILTERS, count()
    )
    unique: bool = option(False, "No document twice; samples then depend on each other.", FILTERS)
    new: bool = option(False, "No document that stands whole in the corpus.", FILTERS)

    def __post_init__(self) -> None:
        object.__setattr__(self, "stop", (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ()))
        object.__setattr__(self, "ban", "".join(self.ban or ()))
        super().__post_init__()
        if "" in self.stop:
            raise OptionError(f"{opt.stop} is empty: it must be a text of at least one character")

    @property
    def max_length(self) -> int:
        """Symbols after which a sample ends at the latest: `length`, else 1,000 for each of `lines` or `documents`."""
        return 1000 * max(self.lines or 1, self.documents or 1) if self.length is None else self.length
