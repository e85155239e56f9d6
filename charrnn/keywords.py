"""Options as keywords of Python: their types; their defaults and help come from the definitions in `config.py`."""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, TypeVar, cast, get_type_hints

from charrnn.config import Cell, Config, NormalForm, Optimizer, Unit, options_of

_Function = TypeVar("_Function", bound=Callable[..., Any])
_Config = TypeVar("_Config", bound=Config)


class SamplingOptions(TypedDict, total=False):
    """The options that shape a text; one that is left out or None has its default."""

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
    """The options of preparing a text; one that is left out or None has its default."""

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
    """The options of preparing a text, of a model and of its training; one left out or None has its default."""

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
    """Give a function that takes a TypedDict of options a signature with each of them, and their help as docstring.

    `configs` define the options. The function raises TypeError for arguments that do not fit.
    """
    hints = get_type_hints(kind)
    keywords, lines = [], []
    for config in configs:
        for name, option in options_of(config).items():
            if name in hints:
                default, place = getattr(config, name), inspect.Parameter.KEYWORD_ONLY
                keywords.append(inspect.Parameter(name, place, default=default, annotation=hints[name]))
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
    """A config from those of the options that it has; None is the default. Raises: OptionError."""
    known = options_of(kind)
    given = {name: value for name, value in options.items() if name in known and value is not None}
    return kind(**{name: None if value == known[name].none else value for name, value in given.items()}, **more)
