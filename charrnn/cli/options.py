"""Options of the command line: those of configs, derived from their fields, and those that several commands share."""

import contextlib
import functools
import inspect
import json as json_module
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import typer

from charrnn.config import COMMON, PANELS, PREPARATION, Choice, Config, Interval, Option, count
from charrnn.files.atomic import require_writable
from charrnn.terminal import Notify, escape_controls

_METAVARS = {int: "N", float: "X", str: "TEXT"}


def declare(help: str, *names: str, metavar: str | None = None, panel: str | None = None, **more: Any) -> Any:  # noqa: A002
    """An option of the command line; `more` are arguments of `typer.Option`."""
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, **more)


class BadValueError(typer.BadParameter):
    """A value that an option does not take."""

    def format_message(self) -> str:
        """The option, the value and its limits."""
        names = self.param.opts if self.param is not None else ["a value"]
        return f"{max(names, key=len)} is {self.message}"


def reads(parse: Callable[[str], Any], limits: Interval | Choice | None = None, none: Any = None) -> dict[str, Any]:
    """Arguments of `declare` for an option whose value is read by `parse` and lies within limits, or is `none`."""
    if parse in (str, bool) and limits is None:
        return {}

    def read(text: Any) -> Any:
        if not isinstance(text, str):
            return text  # a default
        try:
            value = parse(text)
        except ValueError as error:
            raise BadValueError(f"{text or 'empty'}: it must be {limits if parse in (int, float) else error}") from None
        if limits is not None and value not in limits and value != none:
            raise BadValueError(f"{text or 'empty'}: it must be {limits}")
        return value

    def complete(incomplete: str) -> list[str]:
        return [name for name in getattr(limits, "names", ()) if name.startswith(incomplete)]

    return {"parser": read, "autocompletion": complete}


def read_folder(text: str) -> Path:
    """A folder's path. Raises: ValueError for an empty name, as of a shell's variable that is not set."""
    if not text:
        raise ValueError("the name of a folder")
    return Path(text)


Device = Annotated[
    str,
    declare(
        "auto, cpu, cuda, cuda:N or mps; auto takes CUDA, else the faster of MPS and CPU.",
        metavar="NAME",
        panel=COMMON,
        envvar="CHARRNN_DEVICE",
    ),
]
Precision = Annotated[
    str,
    declare(
        "auto, float32, bfloat16 or float16; auto takes the fastest that loses no quality.",
        metavar="NAME",
        panel=COMMON,
        envvar="CHARRNN_PRECISION",
    ),
]
SamplingPrecision = Annotated[
    str,
    declare(
        "auto, float32, bfloat16, float16 or int8; auto takes the fastest that loses no quality.",
        metavar="NAME",
        panel=COMMON,
        envvar="CHARRNN_PRECISION",
    ),
]
Seed = Annotated[
    int | None,
    declare(
        "Everything random follows from it; drawn and reported if unset.",
        metavar="N",
        panel=COMMON,
        **reads(int, count(0)),
    ),
]
Recursive = Annotated[bool, declare("Take the folders within a folder too.", "--recursive", panel=PREPARATION)]
Force = Annotated[bool, declare("Read what seems to be no text all the same.", "--force", panel=PREPARATION)]
Json = Annotated[bool, declare("Print JSON on stdout.", "--json", panel=COMMON)]
Overwrite = Annotated[bool, declare("Replace an existing output.", "--overwrite")]
DataDir = Annotated[
    Path,
    declare(
        "Where prepared corpora lie.", metavar="DIR", panel=COMMON, envvar="CHARRNN_DATA_DIR", **reads(read_folder)
    ),
]
CheckpointDir = Annotated[
    Path,
    declare("Where runs lie.", metavar="DIR", panel=COMMON, envvar="CHARRNN_CHECKPOINT_DIR", **reads(read_folder)),
]

CheckpointArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="CHECKPOINT",
        help="A run's name, its folder or a checkpoint file; default: the newest run.",
        show_default=False,
    ),
]

DATA_DIR = Path("data")
CHECKPOINT_DIR = Path("checkpoints")


def takes_configs(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command an option for each field of the configs among its parameters, which it receives built.

    An option that the command declares itself takes the place of the field of that name, which keeps its default. The
    options are put in the order of the help's panels.
    """
    own = inspect.signature(command, eval_str=True).parameters
    configs = {name: p.annotation for name, p in own.items() if _is_config(p.annotation)}
    derived = {name: [p for p in _derive(config) if p.name not in own] for name, config in configs.items()}
    parameters = [each for p in own.values() for each in derived.get(p.name, [p])]
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in sorted(parameters, key=_place)]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, config in configs.items():
            taken = [field for field in fields(config) if field.name not in own]
            values[name] = config(**{field.name: _value(field, values.pop(field.name)) for field in taken})
        command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def given(ctx: typer.Context, *configs: Config) -> dict[str, Any]:
    """The options that were set on the command line or in the environment, those of configs as their fields."""
    values = ctx.params | {field.name: getattr(config, field.name) for config in configs for field in fields(config)}
    sources = {name: ctx.get_parameter_source(name) for name in values}
    is_set = {name for name, source in sources.items() if source and source.name not in ("DEFAULT", "DEFAULT_MAP")}
    return {name: values[name] for name in is_set}


def tell(message: str) -> None:
    """Print a line on stderr. Where nobody reads it or it has no room, that is no reason to stop."""
    with contextlib.suppress(OSError):
        print(escape_controls(message), file=sys.stderr, flush=True)


def notifier(*, quiet: bool) -> Notify:
    """Print messages on stderr, only warnings if `quiet`."""

    def notify(message: str, *, warning: bool = False) -> None:
        if warning or not quiet:
            tell(f"warning: {message}" if warning else message)

    return notify


def require_output(output: Path | None, *, overwrite: bool) -> Path | None:
    """The file to write to, None for stdout (`-`). Raises: CharRNNError if it exists and may not be overwritten."""
    if output is None or output == Path("-"):
        return None
    require_writable(output, exclusive=not overwrite)
    return output


def tell_page(page: Path | None, size: int, details: str, *, json: bool) -> None:
    """Report the size of a page that was written to a file."""
    if page is None:
        return
    if json:
        print(json_module.dumps({"page": str(page), "bytes": size}), flush=True)
    else:
        tell(f"{page}: {size / 1e6:.1f} MB{details}")


def choose_checkpoint(run: str | None, checkpoint_dir: Path, tell: Callable[[str], object] = tell) -> Path:
    """The checkpoint that a command was given by name or path, else that of the newest run, which is told.

    Raises: CharRNNError.
    """
    from charrnn.runs.folder import find_checkpoint

    path = find_checkpoint(run, checkpoint_dir)
    if run is None:
        tell(f"run {path.parent.name}: the newest in {checkpoint_dir}")
    return path


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Config)


def _derive(config: type[Config]) -> Iterator[inspect.Parameter]:
    """The parameters that Typer turns into a config's options."""
    hints = get_type_hints(config)
    for field in fields(config):
        option, hint, default = field.metadata["option"], hints[field.name], field.default
        kind = next(member for member in (*_members(hint), str) if member is not type(None))
        names = get_args(kind) if get_origin(kind) is Literal else ()
        if kind is tuple or option.adds_up:
            kind, hint, default = str, list[str] | None, None
        elif option.none is not None:
            hint, default = kind, option.none if default is None else default
        name = f"--{field.name.replace('_', '-')}"
        info = declare(
            option.help,
            *filter(None, [name if kind is bool or option.flag else None, option.flag]),
            metavar=option.metavar or "|".join(names) or _METAVARS.get(kind),
            panel=option.panel,
            show_default=default not in (None, ""),
            **reads(option.parse or (str if names else kind), option.limits, option.none),
        )
        yield inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[hint, info]
        )


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union, or the one type; of a tuple the bare type."""
    if get_origin(hint) in (Union, types.UnionType):
        return get_args(hint)
    return (tuple,) if get_origin(hint) is tuple else (hint,)


def _value(field: "Field[Any]", value: Any) -> Any:
    """A field's value for what the command line gave."""
    if isinstance(field.default, tuple):
        return tuple(value or ())
    option: Option = field.metadata["option"]
    if option.adds_up:
        return "".join(value or ())
    return None if option.none is not None and value == option.none else value


def _place(parameter: inspect.Parameter) -> int:
    """The place of a parameter's panel in the help."""
    info = next(iter(getattr(parameter.annotation, "__metadata__", ())), None)
    panel = getattr(info, "rich_help_panel", None)
    return PANELS.index(panel) if panel in PANELS else -1
