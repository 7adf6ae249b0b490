"""Tables of synthetic rows: JSON lines, CSV or Parquet, by the file's name."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dpft.errors import UserError

FORMATS = (".jsonl", ".csv", ".parquet")


def check_target(to: Path) -> None:
    """Raise UserError where `to` exists or has another format."""
    if to.suffix not in FORMATS:
        raise UserError(f"--to must end in {', '.join(FORMATS)}, got {to.name!r}; pass --to synthetic.jsonl")
    if to.exists():
        raise UserError(f"--to must be a new file, got {str(to)!r}, which is there; pass another")
    if not to.absolute().parent.is_dir():
        raise UserError(f"--to must lie in a folder that is there, got {str(to)!r}; make that folder")


def write_rows(to: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows to a temporary file, then rename it to `to`."""
    import pandas as pd

    frame = pd.DataFrame(rows)
    aside = to.with_name(f".{to.name}.{os.getpid()}{to.suffix}")
    try:
        if to.suffix == ".jsonl":
            frame.to_json(aside, orient="records", lines=True, force_ascii=False)
        elif to.suffix == ".csv":
            frame.to_csv(aside, index=False)
        else:
            frame.to_parquet(aside, index=False)
        os.replace(aside, to)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise UserError(
            f"generated rows must be written, got {error.strerror} at {str(to)!r}; make room and run the same command: "
            "nothing is written twice"
        ) from None
