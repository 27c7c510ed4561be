"""What do a file's bytes hold? How it is packed, whether it is text, and in which encoding."""

from __future__ import annotations

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from ..errors import UserError

MAX_BYTES = 256 * 2**20
"""Of a file, and of what it unpacks to: 200 MB are promised, and Sentiment140 (239 MB) is read."""

_CHUNK_BYTES = 2**20
_SIGNATURES = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook", "unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel or Word document", "save the sheet as CSV"),
    (b"%PDF", "a PDF document", "give the table as CSV"),
    (b"\x89PNG", "a picture", "give the table as CSV"),
    (b"\xff\xd8\xff", "a picture", "give the table as CSV"),
    (b"GIF8", "a picture", "give the table as CSV"),
    (b"SQLite format 3", "a database", "export the table as CSV"),
    (b"BZh", "packed by bzip2", "unpack it first"),
    (b"\xfd7zXZ", "packed by xz", "unpack it first"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", "unpack it first"),
    (b"\x7fELF", "a program", "give the table as CSV"),
)
_BOMS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What is tried on bytes that are no Unicode; a longer list finds more that is not there.
_LEGACY = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949"),
)
_CONTROLS = bytes({*range(0x20), 0x7F} - {*b"\t\n\v\f\r\x1b"})
_ENOUGH = 10_000  # characters beyond ASCII, to tell what most of them are
NOT_UTF8 = re.compile("[\udc80-\udcff]")


def read_source(source: Path | bytes | BinaryIO, name: str) -> bytes:
    """Return what a file holds; ValueError where it cannot be read, is too large or empty."""
    if isinstance(source, bytes):
        raw = source
    elif isinstance(source, Path):
        try:
            with open(source, "rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UserError(f"The file {source} cannot be read: {error.strerror}.") from error
    else:
        raw = source.read(MAX_BYTES + 1)
    if len(raw) > MAX_BYTES:
        raise UserError(too_large(f"{name} is"))
    if not raw:
        raise UserError(f"{name} is empty.")
    return raw


def unpack_gzip(raw: bytes, name: str) -> bytes:
    """Unpack gzip, counting what comes out so that a small file cannot fill the memory."""
    unpacked = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            while chunk := file.read(_CHUNK_BYTES):
                unpacked += chunk
                if len(unpacked) > MAX_BYTES:
                    raise UserError(too_large(f"{name} unpacks to"))
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"{name} is packed by gzip but damaged or cut short: pack or fetch it again."
        ) from error
    if not unpacked:
        raise UserError(f"{name} is empty.")
    if unpacked.startswith(b"\x1f\x8b"):
        raise UserError(f"{name} is packed by gzip twice: unpack it once.")
    return bytes(unpacked)


def too_large(what: str) -> str:
    """Return the sentence for what is beyond `MAX_BYTES`."""
    return f"{what} more than {MAX_BYTES // 2**20} MiB, the most that is read: give a part of it."


def check_content(raw: bytes, name: str, ending: str) -> None:
    """Refuse what is no text at all, by its first bytes."""
    for signature, kind, cure in _SIGNATURES:
        if raw.startswith(signature):
            raise UserError(f"{name} is {kind}, not a text file: {cure}.")
    if ending in (".parquet", ".pq"):
        raise UserError(f"{name} is not a Parquet file, whatever its name says.")
    start = raw[: 2**16]
    if start.lstrip()[:14].lower().startswith((b"<!doctype html", b"<html")):
        raise UserError(f"{name} is a web page, not a table: fetch the file itself.")
    if any(start.startswith(mark) for mark, _ in _BOMS) or _utf16_without_mark(start):
        return
    controls = _controls(start)
    if controls >= 16 and controls > 0.02 * len(start):
        raise UserError(f"{name} is a binary file, not a table: give CSV, JSONL or Parquet.")


def _utf16_without_mark(start: bytes) -> str:
    """Name the UTF-16 of Western text without a BOM: every other byte is NUL."""
    half = len(start) // 2
    if half < 4:
        return ""
    even, odd = start[0::2], start[1::2]
    for encoding, high, low in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if high.count(0) > 0.6 * half and _controls(low) < 0.02 * half:
            return encoding
    return ""


def _controls(content: bytes) -> int:
    return len(content) - len(content.translate(None, _CONTROLS))


def find_encoding(raw: bytes, name: str, asked: str | None) -> tuple[str, str]:
    """Return the encoding and how its errors are treated; ValueError where it cannot be right.

    Mostly-UTF-8 is read as UTF-8, and rows with other bytes are refused later: as a legacy encoding
    every one of its accents and emoji would be wrong.
    """
    if asked is not None:
        try:
            "".encode(asked)
        except (LookupError, ValueError) as error:
            raise UserError(
                f"The encoding {asked!r} is not known: choose one such as utf-8 or cp1252."
            ) from error
        encoding = asked
    else:
        mark = next((found for start, found in _BOMS if raw.startswith(start)), "")
        encoding = mark or _utf16_without_mark(raw[: 2**16]) or "utf-8"
    wrong = _first_wrong_byte(raw, encoding)
    if wrong is None:
        return encoding, "strict"
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        if asked is not None or _mostly_utf8(raw):
            return encoding, "surrogateescape"
        return _legacy_encoding(raw), "strict"
    raise UserError(
        f"{name} is not written in {encoding} (byte {wrong:,} cannot be read): "
        "choose another encoding, or save it as UTF-8."
    )


def _first_wrong_byte(raw: bytes, encoding: str) -> int | None:
    """Return where decoding fails, about; None where it does not."""
    decoder = codecs.getincrementaldecoder(encoding)()
    for start in range(0, len(raw), _CHUNK_BYTES):
        chunk = raw[start : start + _CHUNK_BYTES]
        try:
            decoder.decode(chunk, final=start + _CHUNK_BYTES >= len(raw))
        except UnicodeDecodeError as error:
            return start + error.start
        except UnicodeError:
            return start
    return None


def _mostly_utf8(raw: bytes) -> bool:
    """Return whether most of the bytes beyond ASCII are whole UTF-8 characters."""
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    wrong = right = 0
    for start in range(0, len(raw), _CHUNK_BYTES):
        content = decoder.decode(raw[start : start + _CHUNK_BYTES])
        bad = len(NOT_UTF8.findall(content))
        wrong += bad
        right += len(re.findall(r"[^\x00-\x7f]", content)) - bad
        if wrong + right > _ENOUGH:
            break
    return right > wrong


def _legacy_encoding(raw: bytes) -> str:
    """Name the likeliest of the encodings before Unicode, Western where that reads as well."""
    from charset_normalizer import from_bytes

    telling = [line for line in raw.split(b"\n") if not line.isascii()]
    sample = b"\n".join(islice(telling, 500))[: 2**16]
    matches = from_bytes(sample, cp_isolation=list(_LEGACY))
    best = matches.best()
    found = "cp1252"
    if best is not None and "cp1252" not in best.could_be_from_charset:
        western = next((match for match in matches if match.encoding == "cp1252"), None)
        if western is None or (western.chaos, -western.coherence) > (best.chaos, -best.coherence):
            found = best.encoding
    for encoding in (found, "cp1252"):
        if _first_wrong_byte(raw, encoding) is None:
            return encoding
    return "latin-1"  # has a character for every byte


def open_lines(raw: bytes, encoding: str, errors: str) -> Iterator[str]:
    """Yield the lines with their ends: \\n, \\r\\n or \\r, and nothing else ends one."""
    return iter(io.TextIOWrapper(io.BytesIO(raw), encoding=encoding, errors=errors, newline=""))
