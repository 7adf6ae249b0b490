"""Token arrays kept on the disk, so that large data are encoded once and start again in seconds.

Tokens are private text, readable by whoever has the tokenizer: folder and files are their owner's alone. What is read
is checked against its own digest; a folder that is damaged, or that cannot be written, is no error, only slower.
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
from dpft.data.examples import Rows
from dpft.spec import Representation, canonical_json
from dpft.tokens.encode import Chunk, chunks, encode, joined

_FORMAT = 1
_TYPES = {"ids": np.int32, "lengths": np.int64, "second": np.int32, "read": np.int32}
_DONE = "whole.json"


def encoded(rows: Rows, tokenizer: Any, representation: Representation, max_length: int, folder: Path) -> Encoded:
    """`encode`, kept below `folder` where the rows have a digest: its token ids are then mapped from the disk."""
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


def _key(rows: Rows, tokenizer: Any, representation: Representation, max_length: int) -> str | None:
    """All that decides the tokens; None where something of it has no name."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if rows.digest is None or backend is None:
        return None
    words = hashlib.sha256(backend.to_str().encode("utf-8", "surrogatepass")).hexdigest()
    special = [tokenizer.mask_token_id, tokenizer.pad_token_id, type(tokenizer).__name__]
    about = [_FORMAT, rows.digest, rows.pairs is not None, words, special, representation, max_length]
    return hashlib.sha256(canonical_json(about).encode()).hexdigest()


def _write(home: Path, parts: Iterable[Chunk]) -> None:
    """All parts into a new folder, which becomes `home` once it is whole."""
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
    """What lies there, where it is whole and of as many rows."""
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
