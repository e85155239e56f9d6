"""Types of the options as Python keyword arguments; defaults and help come from `config.py`."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, cast, get_type_hints

from charrnn.config import Cell, Config, NormalForm, Optimizer, Unit, options_of

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Config = TypeVar("_Config", bound=Config)


class SamplingOptions(TypedDict, total=False):
    """Options for sampling; None is the default."""

    length: int | None
    lines: int | None
    documents: int | None
    stop: str | Sequence[str] | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    ban: str | Sequence[str] | None
    avoid_copying: int | None
    unique: bool | None
    new: bool | None


class PreparationOptions(TypedDict, total=False):
    """Options for preparing a text; None is the default."""

    encoding: str | None
    normalize: NormalForm | None
    ascii: bool | None
    lowercase: bool | None
    min_count: int | None
    max_vocab: int | None
    keep_boilerplate: bool | None
    unit: Unit | None
    separator: str | None
    documents: bool | None
    drop_duplicates: bool | None
    keep_order: bool | None
    shuffle_seed: int | None


class TrainingOptions(PreparationOptions, total=False):
    """Options for preparing a text, for the model and for training; None is the default."""

    epochs: float | None
    steps: int | None
    minutes: float | None
    cell: Cell | None
    hidden_size: int | None
    num_layers: int | None
    embedding_size: int | None
    dropout: float | None
    optimizer: Optimizer | None
    batch_size: int | None
    seq_length: int | None
    learning_rate: float | None
    weight_decay: float | None
    grad_clip: float | None
    warmup_steps: int | None
    val_fraction: float | None
    eval_every: int | None
    patience: int | None
    checkpoint_every: int | None
    sample_every: int | None


def with_options(kind: type, *configs: type[Config]) -> Callable[[_Function], _Function]:
    """A decorator that adds options to a function's signature and their help to its docstring.

    The function takes the options as a TypedDict, `kind`; `configs` define them. Calls with wrong arguments raise
    TypeError.
    """
    hints = get_type_hints(kind)
    keywords, lines = [], []
    for config in configs:
        for name, option in options_of(config).items():
            if name in hints:
                default, keyword_only = getattr(config, name), inspect.Parameter.KEYWORD_ONLY
                keywords.append(inspect.Parameter(name, keyword_only, default=default, annotation=hints[name]))
                limits = "" if option.limits is None else f" It must be {option.limits}."
                lines.append(f"    {name}: {option.help}.{limits}")

    def decorate(function: _Function) -> _Function:
        signature = inspect.signature(function)
        *own, _ = signature.parameters.values()  # without the TypedDict
        signature = signature.replace(parameters=[*own, *keywords])

        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            try:
                signature.bind(*arguments, **options)
            except TypeError as error:
                raise TypeError(f"{function.__name__}() {error}") from None
            return function(*arguments, **options)

        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *lines])
        return cast(_Function, call)

    return decorate


def config_of(kind: type[_Config], options: Mapping[str, Any], **more: Any) -> _Config:
    """A config with the values of its options in `options`; None is the default. Raises: OptionError."""
    known = options_of(kind)
    given = {name: value for name, value in options.items() if name in known and value is not None}
    return kind(**{name: None if value == known[name].none else value for name, value in given.items()}, **more)
