"""Forged corpora and checkpoints, with the digest that they must have."""

import hashlib
import json
from typing import Any

NO_DIGEST = "0" * 64
_MARK = b'"charrnn":"{\\"digest\\":\\"'


def unseal(whole: bytes) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """A file's tensor entries, its own header, and its data."""
    length = int.from_bytes(whole[:8], "little")
    entries = json.loads(whole[8 : 8 + length])
    header = json.loads(entries.pop("__metadata__")["charrnn"])
    header.pop("digest")
    return entries, header, whole[8 + length :]


def seal(entries: dict[str, Any], header: dict[str, Any], data: bytes) -> bytes:
    """A file of these, with its digest."""
    text = json.dumps({"digest": NO_DIGEST, **header}, separators=(",", ":"))
    return seal_head(json.dumps({"__metadata__": {"charrnn": text}, **entries}, separators=(",", ":")).encode(), data)


def seal_head(head: bytes, data: bytes) -> bytes:
    """A file of this head, in which `NO_DIGEST` stands for the digest, and data."""
    head += b" " * (-len(head) % 8)
    head = len(head).to_bytes(8, "little") + head
    at = head.index(_MARK) + len(_MARK)
    digest = hashlib.sha256(head + data).hexdigest().encode()
    return head[:at] + digest + head[at + len(digest) :] + data
