"""Checkpoints: trainable parameters and optimizer state in one file, replaced atomically."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpft.errors import UserError
from dpft.models.adapted import AdaptedModel
from dpft.runs.folder import Run

_NAME = "checkpoints/last"
_SMALL = 2**20  # bytes; smaller checkpoints are saved after every step, larger ones every `_SECONDS`
_SECONDS = 20.0


class Checkpoints:
    """Saves and restores the checkpoint of one run. Everything in it is computed from noisy releases."""

    def __init__(self, run: Run, adapted: AdaptedModel, optimizer: torch.optim.Optimizer) -> None:
        self.run, self.adapted, self.optimizer = run, adapted, optimizer
        size = sum(p.numel() * p.element_size() for p in adapted.updated.values())
        self._pause = 0.0 if size <= _SMALL else _SECONDS
        self._saved = time.monotonic()

    def save_when_due(self, done: int, seconds: float, steps: int, head: str) -> None:
        """Save after `done` steps and `seconds` of training: after every step if small, and always after the last.

        `head` is the ledger's newest hash: with it a resumed run recognises an older copy of the ledger.
        """
        if done < steps and time.monotonic() - self._saved < self._pause:
            return
        about = {"done": str(done), "seconds": f"{seconds:.0f}", "ledger": head, "run": self._fingerprint()}
        self.run.save_tensors(_NAME, self.tensors(), about)
        self._saved = time.monotonic()

    def restore(self) -> tuple[int, float, str | None]:
        """Load the newest checkpoint. Returns its (done, seconds, ledger head), or (0, 0.0, None) if there is none.

        Raises UserError if it belongs to another run, spec, plan or encoder: its parameters may then never have
        had this run's noise.
        """
        found = self.run.read_tensors(_NAME)
        if found is None:
            return 0, 0.0, None
        tensors, about = found
        if about["run"] != self._fingerprint():
            raise UserError(
                "a checkpoint must be of this very run, spec, plan and encoder, got one of another in "
                f"{str(self.run.path)!r}; restore the run's own files"
            )
        self.take(tensors)
        return int(about["done"]), float(about["seconds"]), about["ledger"]

    def tensors(self) -> dict[str, Tensor]:
        """All state that training continues from, by name, on the CPU."""
        found = {f"model.{name}": t for name, t in self.adapted.state().items()}
        for name, parameter in self.adapted.updated.items():
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer.{name}/{key}"] = torch.as_tensor(value).detach().cpu().contiguous()
        return found

    def take(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the state that `tensors()` returned."""
        self.adapted.load(_part(tensors, "model."))
        for name, parameter in self.adapted.updated.items():
            state: dict[str, Any] = _part(tensors, f"optimizer.{name}/")
            if state:
                self.optimizer.state[parameter] = {k: _placed(k, t, parameter) for k, t in state.items()}

    def _fingerprint(self) -> str:
        return self.run.fingerprint(self.adapted.model.digest)


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _placed(key: str, value: Tensor, parameter: Tensor) -> Tensor:
    """Move optimizer state to the parameter's device, except Adam's step count, which stays on the CPU."""
    return value if key == "step" else value.to(parameter.device)
