"""The files that pages are made of, and the policy that lets a browser run these and nothing else."""

import base64
import hashlib
from importlib import resources


def read(name: str) -> str:
    """A file of this folder."""
    return resources.files("charrnn.report").joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """The source expression of a content security policy that allows exactly this inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def policy(script: str, style: str, *more: str) -> str:
    """The content security policy of a page with this script and this style, which may do what `more` says besides."""
    own = [f"script-src {_source(script)}", f"style-src {_source(style)}"]
    return "; ".join(["default-src 'none'", *own, *more, "base-uri 'none'", "form-action 'none'"])
