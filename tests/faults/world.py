"""A small private world to break: data in which every row carries a planted word, a model, a ledger, runs."""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

PLANTED = "zqplanted"  # in every training text: wherever it shows, a person's text has leaked
BUDGET = ("--epsilon", "8", "--delta", "1e-4")


@dataclass(frozen=True)
class World:
    """Where everything lies, and the command line in it: `call(words)` gives exit code, stdout and stderr."""

    home: Path
    call: Callable[..., tuple[int, str, str]]

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def model(self) -> Path:
        return self.home / "model"

    @property
    def ledger(self) -> Path:
        return self.home / "ledger.sqlite"

    @property
    def finished(self) -> Path:
        """A finished run."""
        return self.home / "runs" / "finished"

    @property
    def broken(self) -> Path:
        """A run broken off half-way."""
        return self.home / "runs" / "broken"

    def train(self, *words: object, budget: bool = True) -> tuple[int, str, str]:
        """`dpft train` with words after those of a run that would work."""
        options = () if "--method" in words or "--option" in words else ("--option", "dim=8")
        return self.call(
            "train", "--task", "glue/sst2", "--data", self.data, "--model", self.model, "--batch-size", 40,
            "--epochs", 1, "--max-length", 32, "--precision", "fp32", "--runs", self.home / "new",
            *options, *(BUDGET if budget else ()), *words,
        )  # fmt: skip

    def assert_refused(self, said: str, ask: Callable[[], tuple[int, str, str]]) -> None:
        """`ask` ends in one line with `said`, the remedy and nobody's text; it charges nothing and leaves no file."""
        charged, files = self.charges(), self.files()
        code, out, err = ask()
        assert (code, out) == (2, ""), err
        assert re.fullmatch(r"dpft: .+, got .+; .+\n", err), err
        assert said in err
        assert PLANTED not in err
        assert self.charges() == charged
        assert self.files() == files

    def edit(self, change: Callable[[pd.DataFrame], pd.DataFrame | None], split: str = "train") -> None:
        """Change a split's table, in place or by what is returned."""
        file = self.data / f"{split}.parquet"
        table = pd.read_parquet(file)
        found = change(table)
        (table if found is None else found).to_parquet(file)

    def edit_json(self, file: Path, **changes: Any) -> None:
        """Change fields of a JSON file; None takes a field out."""
        values = {**json.loads(file.read_text()), **changes}
        file.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))

    def charges(self) -> list[str]:
        """Every row of the ledger; none where there is none that can be read."""
        if not self.ledger.is_file():
            return []
        try:
            with sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True) as db:
                return [row[0] for row in db.execute("SELECT body FROM entry ORDER BY seq")]
        except sqlite3.Error:
            return []

    def files(self) -> dict[str, str]:
        """Everything below the runs, and its sha256: what a refusal must leave as it was."""
        folders = [folder for folder in (self.home / "runs", self.home / "new") if folder.is_dir()]
        return {
            str(file.relative_to(self.home)): hashlib.sha256(file.read_bytes()).hexdigest()
            for folder in folders
            for file in folder.rglob("*")
            if file.is_file()
        }
