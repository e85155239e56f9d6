"""The one file format: a safetensors file whose metadata is a JSON header with a digest of the whole file.

Written atomically and durably; verified and read through one descriptor, without unpickling. The meaning of the
header and the tensors is left to `corpus.py` and `checkpoint.py`.
"""

import contextlib
import hashlib
import json
import math
import mmap
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from charrnn.errors import CharRNNError, opt
from charrnn.files.atomic import Guard, no_guard, open_regular, write_atomically

FORMAT = 1
SUFFIX = ".safetensors"
_MAX_HEADER = 2**22
"""Max bytes of JSON in a file: enough for any alphabet, and little to parse in an untrusted file."""
_KEY = "charrnn"
_NO_DIGEST = "0" * 64
# The header is JSON text inside safetensors' own JSON, so its quotes are escaped; the digest comes first.
_DIGEST_MARK = b'"charrnn":"{\\"digest\\":\\"'
_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.uint8: "U8",
    torch.int8: "I8",
}
_IN_MEMORY = 2**28
"""Max bytes of tensors that are read into memory; larger files are memory-mapped."""
_MAX_DIMENSIONS, _MAX_NUMBERS = 8, 2**48


@dataclass(frozen=True)
class StoredFile:
    """The content of a file: its header without the format's own keys, its tensors on the CPU.

    `mapping` holds the tensors of a large file; it may be read as long as the file is not truncated.
    """

    header: dict[str, Any]
    tensors: dict[str, Tensor]
    mapping: mmap.mmap | None = None


def write(
    path: Path,
    kind: str,
    header: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    backup: Path | None = None,
    guard: Guard = no_guard,
    *,
    blocks: Iterable[Tensor] | None = None,
    exclusive: bool = False,
) -> None:
    """Write a file of this kind atomically: a crash leaves either the old file or the new one, whole.

    `blocks` are the data of a tensor on the meta device; for the other options see `write_atomically`.
    Raises: CharRNNError if the file cannot be written, or the header would be too long to read.
    """
    # Widest elements first, as in safetensors, so that all are aligned.
    ordered = dict(sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0])))
    text = json.dumps({"digest": _NO_DIGEST, "kind": kind, "format": FORMAT, **header}, separators=(",", ":"))
    head = _safetensors_head(text, ordered)
    if len(head) > _MAX_HEADER:
        raise CharRNNError(f"{path} would need a header of {len(head):,} bytes: a smaller {opt.max_vocab} shortens it")
    sha = hashlib.sha256(head)

    def parts() -> Iterator[bytes | memoryview]:
        yield head
        for block in ordered.values() if blocks is None else blocks:
            if block.numel():
                data = block.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data
                sha.update(data)
                yield data

    def digest() -> tuple[int, bytes]:
        return head.index(_DIGEST_MARK) + len(_DIGEST_MARK), sha.hexdigest().encode()

    write_atomically(path, parts(), backup, guard, digest, exclusive=exclusive)


def _safetensors_head(text: str, arrays: Mapping[str, Tensor]) -> bytes:
    """The bytes before the data: the JSON's length in 8 bytes, then the JSON, padded to 8 bytes."""
    entries: dict[str, Any] = {"__metadata__": {_KEY: text}}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        entries[name] = {"dtype": _DTYPES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(entries, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return len(encoded).to_bytes(8, "little") + encoded


def read(path: Path, kind: str) -> StoredFile:
    """Read and verify a file of this kind; the tensors of a large one are memory-mapped.

    The file is opened once, so that the verified bytes are returned even if the file is replaced meanwhile.
    Raises: CharRNNError for a file that is missing, truncated, altered, of another kind or a newer format.
    """
    with _opened(path) as (stream, head, header, shapes):
        before, _, after = head.partition(_DIGEST_MARK)
        digest = hashlib.sha256(before + _DIGEST_MARK + _NO_DIGEST.encode() + after[64:])
        tensors, mapping = _read_tensors(stream, len(head), shapes, digest)
    if digest.hexdigest().encode() != after[:64]:
        raise _damaged(path, "its digest does not match its content")
    return StoredFile(_own_fields(path, header, kind), tensors, mapping)


def read_header(path: Path, kind: str) -> dict[str, Any]:
    """The header of a file of this kind, at the same cost for files of any size: the digest is not verified.

    Raises: CharRNNError as `read` does, but for altered bytes.
    """
    with _opened(path) as (_, _, header, _):
        return _own_fields(path, header, kind)


def kind_of(path: Path) -> str:
    """The kind in a file's header; nothing else is verified. Raises: CharRNNError for a file that is not ours."""
    with _opened(path) as (_, _, header, _):
        return str(header.get("kind"))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, bytes, dict[str, Any], dict[str, Tensor]]]:
    """The file after its head, the head's bytes, our header, the tensors without data. Raises: CharRNNError."""
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            head = stream.read(8)
            length = int.from_bytes(head, "little")
            if length + 8 > min(size, _MAX_HEADER):
                raise CharRNNError(f"{path} is not a charrnn file, or it is truncated: name another")
            head += stream.read(length)
            if _DIGEST_MARK not in head:
                raise CharRNNError(f"{path} is not a charrnn file: name one that charrnn wrote")
            yield stream, head, *_parse(path, head, size - len(head))
    except OSError as error:
        raise CharRNNError(f"{path} cannot be read: {error.strerror}") from error


def _own_fields(path: Path, header: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """The header without the format's own keys. Raises: CharRNNError for another format or kind."""
    if header.get("format") != FORMAT:
        raise CharRNNError(f"{path} is of another format than {FORMAT}: it needs another version of charrnn")
    if header.get("kind") != kind:
        raise CharRNNError(f"{path} is a {header.get('kind')}, not a {kind}")
    return {key: value for key, value in header.items() if key not in ("format", "kind", "digest")}


def _parse(path: Path, head: bytes, size: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Our header, and the tensors of `size` bytes of data, in their order, without data. Raises: CharRNNError."""
    try:
        entries = json.loads(head[8:])
        header = json.loads(entries.pop("__metadata__")[_KEY])
        shapes, position = {}, 0
        for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
            shapes[name] = _shape_only(name, entry)
            begin, position = position, position + shapes[name].nbytes
            if entry["data_offsets"] != [begin, position]:
                raise ValueError(f"{name} is at another place than its header states")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _damaged(path, f"unreadable header ({error})") from error
    if not isinstance(header, dict):
        raise _damaged(path, "its header is not a JSON object")
    if position != size:
        raise _damaged(path, f"it has {size:,} bytes of tensors instead of {position:,}")
    return header, shapes


def _shape_only(name: str, entry: Mapping[str, Any]) -> Tensor:
    """A tensor without data. Raises: ValueError, TypeError, KeyError."""
    dtype = next((dtype for dtype, known in _DTYPES.items() if known == entry["dtype"]), None)
    if dtype is None:
        raise ValueError(f"{name} is of a type that is never written")
    shape = entry["shape"]
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS or any(type(n) is not int or n < 0 for n in shape):
        raise ValueError(f"{name} has an impossible shape")
    if math.prod(max(1, n) for n in shape) > _MAX_NUMBERS:
        raise ValueError(f"{name} is larger than any memory")
    return torch.empty(shape, dtype=dtype, device="meta")


def _read_tensors(
    stream: BinaryIO, begin: int, shapes: Mapping[str, Tensor], digest: Any
) -> tuple[dict[str, Tensor], mmap.mmap | None]:
    """The tensors after the head of `begin` bytes and their mapping, if any; updates `digest`. Raises: OSError."""
    tensors = {}
    if sum(shape.nbytes for shape in shapes.values()) <= _IN_MEMORY:
        for name, shape in shapes.items():
            tensors[name] = torch.zeros(shape.shape, dtype=shape.dtype)  # zeros remain where the file was truncated
            if shape.numel():
                data = tensors[name].view(-1).view(torch.uint8).numpy().data
                stream.readinto(data)  # type: ignore[attr-defined]
                digest.update(data)
        return tensors, None
    while block := stream.read(1 << 22):
        digest.update(block)
    mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    for name, shape in shapes.items():
        flat = torch.empty(0, dtype=shape.dtype)
        if shape.numel():
            with warnings.catch_warnings(action="ignore"):  # PyTorch warns of writes, and there are none
                flat = torch.frombuffer(mapped, dtype=shape.dtype, count=shape.numel(), offset=begin)
        tensors[name], begin = flat.view(shape.shape), begin + shape.nbytes
    return tensors, mapped


def is_stored(path: Path) -> bool:
    """True if a regular file of any name begins like one of ours; it may still be damaged."""
    try:
        with open_regular(path) as stream:
            return _DIGEST_MARK in stream.read(8 + 64)
    except OSError:
        return False


def mentions(path: Path, word: str) -> bool:
    """True if the file seems to be one of ours and its header holds a word; nothing is verified."""
    try:
        with open_regular(path) as stream:
            head = stream.read(min(int.from_bytes(stream.read(8), "little"), _MAX_HEADER))
            return _DIGEST_MARK in head[:64] and word.encode(errors="replace") in head
    except OSError:
        return False


def _damaged(path: Path, reason: str) -> CharRNNError:
    return CharRNNError(f"{path} is damaged or was altered: {reason}; restore it or make it again")
