"""Options of the command line: derived from the fields of configs, or shared by several commands."""

import contextlib
import functools
import inspect
import json as json_module
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from charrnn.config import COMMON, PANELS, PREPARATION, SEEDS, Choice, Config, Interval, Option
from charrnn.files.atomic import require_writable
from charrnn.terminal import Notify, escape_controls

_METAVARS: dict[type, str] = {int: "N", float: "X", str: "TEXT"}


class BadValueError(typer.BadParameter):
    """An invalid value of an option."""

    def format_message(self) -> str:
        """State the option, the value and its limits."""
        names = self.param.opts if self.param is not None else ["a value"]
        return f"{max(names, key=len)} is {self.message}"


def declare(
    help: str,  # noqa: A002 (as Typer names it)
    *names: str,
    metavar: str | None = None,
    panel: str | None = None,
    parse: Callable[[str], Any] = str,
    limits: Interval | Choice | None = None,
    none: int | None = None,
    **more: Any,
) -> Any:
    """Declare an option. `parse` converts the text, `limits` are checked, and the value `none` represents None.

    `more` are arguments of `typer.Option`.
    """

    def read(text: str) -> Any:
        try:
            value = parse(text)
        except ValueError as error:
            raise BadValueError(f"{text or 'empty'}: it must be {limits if parse in (int, float) else error}") from None
        if none is not None and value == none:
            return None
        if limits is not None and value not in limits:
            raise BadValueError(f"{text or 'empty'}: it must be {limits}")
        return value

    def complete(incomplete: str) -> list[str]:
        return [name for name in getattr(limits, "names", ()) if name.startswith(incomplete)]

    if parse is not str or limits is not None:
        more |= {"parser": read, "autocompletion": complete}
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel, **more)


def read_folder(text: str) -> Path:
    """The path of a folder. Raises: ValueError for an empty name, for example from an unset shell variable."""
    if not text:
        raise ValueError("the name of a folder")
    return Path(text)


def _from_environment(help: str, metavar: str, variable: str, parse: Callable[[str], Any] = str) -> Any:  # noqa: A002
    """An option that can also be set by an environment variable."""
    return declare(help, metavar=metavar, panel=COMMON, envvar=f"CHARRNN_{variable}", parse=parse)


_DEVICE = "auto, cpu, cuda, cuda:N or mps"
_SEED = "Random seed; printed if generated"
_CHECKPOINT = "Name or folder of a run, a checkpoint file, or english; default: the newest run"

Device = Annotated[str, _from_environment(_DEVICE, "NAME", "DEVICE")]
Precision = Annotated[str, _from_environment("auto, float32, bfloat16 or float16", "NAME", "PRECISION")]
SamplingPrecision = Annotated[str, _from_environment("auto, float32, bfloat16, float16 or int8", "NAME", "PRECISION")]
Seed = Annotated[int | None, declare(_SEED, metavar="N", panel=COMMON, parse=int, limits=SEEDS)]
Recursive = Annotated[bool, declare("Read subfolders too", "--recursive", panel=PREPARATION)]
Validate = Annotated[
    str | None,
    declare("Text for validation: a file, a folder or -", metavar="FILE", panel=PREPARATION),
]
Force = Annotated[bool, declare("Read files that do not look like text", "--force", panel=PREPARATION)]
Json = Annotated[bool, declare("Print JSON on stdout", "--json", panel=COMMON)]
Overwrite = Annotated[bool, declare("Replace an existing output file", "--overwrite")]
DataDir = Annotated[Path, _from_environment("Folder of prepared corpora", "DIR", "DATA_DIR", read_folder)]
CheckpointDir = Annotated[Path, _from_environment("Folder of runs", "DIR", "CHECKPOINT_DIR", read_folder)]
CheckpointArgument = Annotated[str | None, typer.Argument(metavar="CHECKPOINT", help=_CHECKPOINT)]

DATA_DIR = Path("data")
CHECKPOINT_DIR = Path("checkpoints")


def takes_configs(command: Callable[..., None]) -> Callable[..., None]:
    """Replace each parameter that is a config by an option for each of its fields; the command receives the config.

    A parameter of the command replaces the option of a field with the same name; the field then has its default. The
    options are sorted by panel.
    """
    own = inspect.signature(command).parameters
    configs = {name: p.annotation for name, p in own.items() if _is_config(p.annotation)}
    derived = {name: [p for p in map(_derive, fields(config)) if p.name not in own] for name, config in configs.items()}
    parameters = [each for p in own.values() for each in derived.get(p.name, [p])]
    parameters = [p.replace(kind=p.KEYWORD_ONLY) for p in sorted(parameters, key=_panel_index)]

    @functools.wraps(command)
    def run(**values: Any) -> None:
        for name, config in configs.items():
            values[name] = config(**{p.name: values.pop(p.name) for p in derived[name]})
        command(**values)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Config)


def _derive(field: "Field[Any]") -> inspect.Parameter:
    """The parameter from which Typer creates the option of a field."""
    option: Option = field.metadata["option"]
    hint: Any = field.type
    kind: type = next((kind for kind in (bool, int, float) if kind in (hint, *get_args(hint))), str)
    info = declare(
        option.help,
        *filter(None, [f"--{field.name.replace('_', '-')}", option.flag]),
        metavar=option.metavar or "|".join(getattr(option.limits, "names", ())) or _METAVARS.get(kind),
        panel=option.panel,
        parse=option.parse or (str if kind is bool else kind),
        limits=option.limits,
        none=option.none,
    )
    hint, default = (list[str] | None, None) if option.repeatable else (hint, field.default)
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(field.name, keyword, default=default, annotation=Annotated[hint, info])


def _panel_index(parameter: inspect.Parameter) -> int:
    """The index of the parameter's panel in the help; -1 without a panel."""
    info = next(iter(getattr(parameter.annotation, "__metadata__", ())), None)
    panel = getattr(info, "rich_help_panel", None)
    return PANELS.index(panel) if panel in PANELS else -1


def given(ctx: typer.Context, *configs: Config) -> dict[str, Any]:
    """The options set on the command line or in the environment, with values from the configs if they have them."""
    values = dict(ctx.params)
    for config in configs:
        values |= vars(config)
    sources = {name: ctx.get_parameter_source(name) for name in values}
    return {name: values[name] for name, source in sources.items() if source is not None and source.name != "DEFAULT"}


def print_message(message: str) -> None:
    """Print a line on stderr; errors, such as a closed pipe or a full disk, are ignored."""
    with contextlib.suppress(OSError):
        print(escape_controls(message), file=sys.stderr, flush=True)


def notifier(*, quiet: bool) -> Notify:
    """A function that prints messages on stderr, or only warnings if `quiet`."""

    def notify(message: str, *, warning: bool = False) -> None:
        if warning or not quiet:
            print_message(f"warning: {message}" if warning else message)

    return notify


def require_output(output: Path | None, *, overwrite: bool) -> Path | None:
    """The output file, None for stdout (`-`). Raises: CharRNNError if it exists and may not be overwritten."""
    if output is None or output == Path("-"):
        return None
    require_writable(output, exclusive=not overwrite)
    return output


def report_page(page: Path | None, size: int, details: str, *, json: bool) -> None:
    """Print the size of a page, unless it was written to stdout."""
    if page is None:
        return
    if json:
        print(json_module.dumps({"page": str(page), "bytes": size}), flush=True)
    else:
        print_message(f"{page}: {size / 1e6:.1f} MB{details}")


def choose_checkpoint(run: str | None, checkpoint_dir: Path, notify: Callable[[str], object] = print_message) -> Path:
    """The checkpoint of a run by name or path; the default, the newest run, is reported. Raises: CharRNNError."""
    from charrnn.runs.folder import find_checkpoint

    path = find_checkpoint(run, checkpoint_dir)
    if run is None:
        notify(f"run {path.parent.name}: the newest in {checkpoint_dir}")
    return path
