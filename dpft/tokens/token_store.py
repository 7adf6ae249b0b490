"""Cache of token arrays on disk, so that large data are encoded once.

Tokens are as private as the text they encode: folder and files are readable by their owner alone. Files are checked
against their digest. A damaged or unwritable folder is no error, only slower.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from dpft.data.encoded import Encoded
from dpft.data.examples import Examples
from dpft.spec import Representation, canonical_json
from dpft.tokens.encode import Chunk, chunks, encode, joined

_FORMAT = 1
_TYPES = {"ids": np.int32, "lengths": np.int64, "second": np.int32, "read": np.int32}
_DONE = "whole.json"


def encoded(rows: Examples, tokenizer: Any, representation: Representation, max_length: int, folder: Path) -> Encoded:
    """`encode`, cached below `folder` where the rows have a digest; token ids are then memory-mapped from the disk.

    Documents are not cached: a chat template, and the cut into windows, would decide their tokens too.
    """
    key = _key(rows, tokenizer, representation, max_length)
    if key is None:
        return encode(rows, tokenizer, representation, max_length)
    home = folder / key
    try:
        whole = _read(home, len(rows))
        if whole is None:
            _write(home, chunks(rows, tokenizer, representation, max_length))
            whole = _read(home, len(rows))
    except OSError:
        whole = None
    if whole is None:
        return encode(rows, tokenizer, representation, max_length)
    return joined(rows, tokenizer, whole)


def _key(rows: Examples, tokenizer: Any, representation: Representation, max_length: int) -> str | None:
    """The cache key: a digest of everything that decides the tokens; None where something has no digest."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if rows.digest is None or rows.documents is not None or backend is None:
        return None
    words = hashlib.sha256(backend.to_str().encode("utf-8", "surrogatepass")).hexdigest()
    special = [tokenizer.mask_token_id, tokenizer.pad_token_id, type(tokenizer).__name__]
    about = [_FORMAT, rows.digest, rows.pairs is not None, words, special, representation, max_length]
    return hashlib.sha256(canonical_json(about).encode()).hexdigest()


def _write(home: Path, parts: Iterable[Chunk]) -> None:
    """Write all parts to a temporary folder, which is renamed to `home` once complete."""
    home.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.parent.chmod(0o700)
    aside = Path(tempfile.mkdtemp(dir=home.parent, prefix=".encoding-"))  # readable by its owner alone
    try:
        with ExitStack() as stack:
            files = {name: stack.enter_context(open(aside / name, "xb", opener=_own)) for name in _TYPES}
            for part in parts:
                for name, file in files.items():
                    file.write(getattr(part, name).astype(_TYPES[name]).tobytes())
            for file in files.values():
                file.flush()
                os.fsync(file.fileno())
        about = {name: _digest(aside / name) for name in _TYPES}
        with open(aside / _DONE, "x", opener=_own, encoding="ascii") as done:
            done.write(canonical_json(about))
        shutil.rmtree(home, ignore_errors=True)
        os.rename(aside, home)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _read(home: Path, rows: int) -> Chunk | None:
    """The stored arrays, None where they are incomplete, damaged or of another number of rows."""
    try:
        about = json.loads((home / _DONE).read_text(encoding="ascii"))
        if any(about[name] != _digest(home / name) for name in _TYPES):
            return None
        found = {name: np.fromfile(home / name, kind) for name, kind in _TYPES.items() if name != "ids"}
        found["ids"] = np.memmap(home / "ids", np.int32, "r")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = Chunk(**{f.name: found[f.name] for f in fields(Chunk)})
    fits = {len(whole.lengths), len(whole.second), len(whole.read)} == {rows}
    return whole if fits and int(whole.lengths.sum()) == len(whole.ids) else None


def _digest(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _own(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
