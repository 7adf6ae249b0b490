"""Atomic writing of files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from dpft.errors import UserError


def write(content: bytes, file: Path, what: str, remedy: str) -> None:
    """Write `content` to `file` atomically. Raises UserError where it cannot be written."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-", suffix=file.suffix)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{what} must lie where it can be written, got {str(file)!r} ({error.strerror}); {remedy}"
        ) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
