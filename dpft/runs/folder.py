"""The run folder: names, atomic writes, tensors. A reader never sees a partial file."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dpft.errors import UserError
from dpft.privacy.ledger import written
from dpft.privacy.mechanism.plan import Plan
from dpft.spec import Spec, canonical_json

FORMAT = 1
_INTENT = "intent"  # exists until run.json is written: a process killed in between loses no reserved step


def write(path: Path, content: bytes, *, private: bool = False) -> None:
    """Replace `path` by `content` atomically and durably: temporary file, fsync, rename.

    `private`: the file and its folder are readable by the owner alone, already before the first byte is written.
    """
    if private:
        private_folder(path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)  # left by a process that was killed, with unknown permissions
    mode = 0o600 if private else 0o666
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    flush_folder(path.parent)


def flush_folder(path: Path) -> None:
    """Make file creations, replacements and removals in the folder durable."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def private_folder(path: Path) -> None:
    """Create the folder with access for its owner alone; restrict it if it exists with wider permissions."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.stat().st_mode & 0o077:
        path.chmod(0o700)


def free(path: Path, identity: str) -> Path:
    """`path` with the first digits of `identity` appended to its name: at least four, and enough to be unused."""
    names = (path.with_name(f"{path.name}-{identity[:digits]}") for digits in range(4, len(identity) + 1))
    return next(name for name in names if not os.path.lexists(name))


def _made(path: Path, identity: str) -> Path:
    """Create the folder that `free` names; with more digits if another process creates it first."""
    while True:
        found = free(path, identity)
        try:
            found.mkdir(parents=True)
            return found
        except FileExistsError:
            if not os.path.lexists(found):  # a parent is not a folder
                raise


@dataclass(frozen=True)
class Run:
    """One run: its folder `path`, spec and plan.

    `id`: the run's identity in the ledger. `ledger`: a path, or a URL without its password. `ledger_head`: the ledger's
    hash just after the run's reservation; empty without privacy.
    """

    path: Path
    spec: Spec
    plan: Plan
    id: str
    ledger: Path | str
    ledger_head: str

    @classmethod
    def create(cls, root: Path, spec: Spec, plan: Plan, ledger: Path | str, reserve: Callable[[str], str]) -> Run:
        """A fresh folder below `root`, named after the spec.

        `reserve` takes the run's identity, reserves its steps and returns the ledger's head; if it raises, the
        folder is removed. Raises UserError if the folder cannot be created.
        """
        identity = secrets.token_hex(16)
        path = root / _name(spec)
        try:
            path = _made(path, identity)
            intended = cls(path, spec, plan, identity, written(ledger), "")
            intended.write_json(_INTENT, intended._intent())
        except OSError as error:
            raise UserError(
                f"the run's folder must be writable, got {error.strerror} at {str(path)!r}; pass --runs DIR"
            ) from None
        try:
            head = reserve(identity)
        except BaseException:
            (path / f"{_INTENT}.json").unlink()
            path.rmdir()
            raise
        return intended.reserved(head)

    def reserved(self, head: str) -> Run:
        """Write the run's files after its reservation, so that `open` finds it. head: the ledger's newest hash."""
        run = replace(self, ledger_head=head)
        run.write_json("spec", run.spec.to_json())
        run.write_json("plan", run.plan.to_json())
        about = {"format": FORMAT, "id": run.id, "ledger": str(run.ledger), "ledger_head": head}
        run.write_json("run", about)
        (run.path / f"{_INTENT}.json").unlink(missing_ok=True)
        return run

    @classmethod
    def intended(cls, path: Path) -> Run | None:
        """The run that was about to be reserved when its creation was interrupted; None if there is none."""
        try:
            about = json.loads((path / f"{_INTENT}.json").read_text())
            spec, plan = Spec.from_json(about["spec"]), Plan.from_json(about["plan"])
            return cls(path, spec, plan, about["id"], written(about["ledger"]), "")
        except (OSError, KeyError, TypeError, ValueError):
            return None

    def _intent(self) -> dict[str, Any]:
        spec, plan = self.spec.to_json(), self.plan.to_json()
        return {"id": self.id, "ledger": str(self.ledger), "spec": spec, "plan": plan}

    def fingerprint(self, backbone: str) -> str:
        """sha256 over everything that a checkpoint must share with the run it is restored into."""
        return hashlib.sha256(
            canonical_json([self.id, self.spec.to_json(), self.plan.to_json(), backbone]).encode()
        ).hexdigest()

    @classmethod
    def open(cls, path: Path) -> Run:
        """Read the run at `path`. Raises UserError if there is none, or if it is damaged or of another format."""
        if not (path / "run.json").is_file():
            raise UserError(f"a run must be a folder with run.json, got {str(path)!r}; name one below runs/")
        try:
            about = json.loads((path / "run.json").read_text())
            if about["format"] != FORMAT:
                raise UserError(f"the run must be of format {FORMAT}, got {about['format']}; use the dpft that made it")
            spec = Spec.from_json(json.loads((path / "spec.json").read_text()))
            plan = Plan.from_json(json.loads((path / "plan.json").read_text()))
            run = cls(path, spec, plan, about["id"], written(about["ledger"]), about["ledger_head"])
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise UserError(
                f"a run's spec, plan and run.json must be readable, got {type(error).__name__} in {str(path)!r}; "
                "copy the folder again"
            ) from None
        if plan.budget != spec.budget:
            raise UserError(
                f"a run's plan must be made for its spec's budget, got {plan.budget} for {spec.budget}; "
                f"restore both files in {str(path)!r}"
            )
        return run

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write NAME.json in the folder, indented for people."""
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        write(self.path / f"{name}.json", (text + "\n").encode())

    def write_private_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write private/NAME.json, which the privacy promise does not cover: readable by its owner alone."""
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        write(self.path / "private" / f"{name}.json", (text + "\n").encode(), private=True)

    def read_json(self, name: str) -> dict[str, Any] | None:
        """The content of NAME.json, or None if it does not exist yet."""
        path = self.path / f"{name}.json"
        return json.loads(path.read_text()) if path.is_file() else None

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> None:
        """Write NAME.safetensors in the folder, with `about` as its metadata."""
        from safetensors.torch import save

        write(self.path / f"{name}.safetensors", save(dict(tensors), dict(about)))

    def read_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
        """Tensors and metadata of NAME.safetensors, or None if it does not exist yet. Raises UserError if damaged."""
        from safetensors import SafetensorError, safe_open

        path = self.path / f"{name}.safetensors"
        if not path.is_file():
            return None
        try:
            with safe_open(path, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        except SafetensorError:
            raise UserError(
                f"{name}.safetensors must be whole, got a damaged one in {str(self.path)!r}; copy it again"
            ) from None


def _name(spec: Spec) -> str:
    budget = f"eps{spec.budget.epsilon:g}" if spec.budget else "NOT-PRIVATE"
    model = "minilm" if spec.model == "builtin" else Path(spec.model).name
    parts = [spec.task.rpartition("/")[2], model, spec.method, budget]
    return "-".join("".join(c if c.isalnum() or c in "._" else "-" for c in part).strip("-.") for part in parts)


def adapter_digest(run: Run) -> str:
    """sha256 of adapter.safetensors, byte by byte."""
    return hashlib.sha256((run.path / "adapter.safetensors").read_bytes()).hexdigest()
