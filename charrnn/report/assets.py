"""The templates and scripts of pages, their content security policy, and writing a page to a file."""

import base64
import contextlib
import hashlib
import sys
from importlib import resources
from pathlib import Path

from charrnn.files.atomic import open_regular, write_atomically

_GENERATOR = b'<meta name="generator" content="charrnn">'
_MODULE = b"// charrnn module"


def read(name: str) -> str:
    """Read a file of this folder."""
    return resources.files("charrnn.report").joinpath(name).read_text(encoding="utf-8")


def policy(script: str, style: str, *more: str) -> str:
    """The content security policy of a page: only this inline script and style, and `more` directives."""
    hashes = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (script, style))
    sources = [f"{kind} 'sha256-{each}'" for kind, each in zip(("script-src", "style-src"), hashes, strict=True)]
    return "; ".join(["default-src 'none'", *sources, *more, "base-uri 'none'", "form-action 'none'"])


def is_own_page(path: Path) -> bool:
    """True if charrnn wrote the file."""
    with contextlib.suppress(OSError), open_regular(path) as stream:
        head = stream.read(1024)
        return _GENERATOR in head or head.startswith(_MODULE)
    return False


def write_page(page: str, path: Path | None, *, overwrite: bool = False) -> int:
    """Write a page or a module to a file, or to stdout if `path` is None.

    Files that charrnn wrote are overwritten, others only with `overwrite`. Returns: the size in bytes. Raises:
    CharRNNError.
    """
    data = page.encode()
    if path is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    else:
        write_atomically(path, [data], exclusive=not (overwrite or is_own_page(path)))
    return len(data)
