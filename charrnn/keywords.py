"""The options of sampling as keywords of Python: their types and help, from the definitions in `config.py`."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar, cast, get_type_hints

from charrnn.config import SamplingConfig, options_of

_Method = TypeVar("_Method", bound=Callable[..., Any])


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


def with_sampling_options(method: _Method) -> _Method:
    """Give a method that takes SamplingOptions a signature with each of them, and a docstring with their help.

    The method raises TypeError for arguments that do not fit it.
    """
    hints = get_type_hints(SamplingOptions)
    keywords, lines = [], []
    for name, option in options_of(SamplingConfig).items():
        if name in hints:
            default, kind = getattr(SamplingConfig, name), inspect.Parameter.KEYWORD_ONLY
            keywords.append(inspect.Parameter(name, kind, default=default, annotation=hints[name]))
            limits = "" if option.limits is None else f" It must be {option.limits}."
            lines.append(f"    {name}: {option.help}{limits}")
    signature = inspect.signature(method)
    *own, _ = signature.parameters.values()  # without the TypedDict
    signature = signature.replace(parameters=[*own, *keywords])

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        try:
            signature.bind(*arguments, **options)
        except TypeError as error:
            raise TypeError(f"{method.__name__}() {error}") from None
        return method(*arguments, **options)

    call.__signature__ = signature  # type: ignore[attr-defined]
    call.__doc__ = "\n".join([inspect.cleandoc(method.__doc__ or ""), "", "Options:", *lines])
    return cast(_Method, call)
