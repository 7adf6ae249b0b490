"""Where each architecture keeps its pieces: one row each, dotted paths inside the stock model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from dpft.spec import UserError

Position = Literal["output", "attention", "intermediate"]


@dataclass(frozen=True)
class Architecture:
    """Paths of a family's parts: `blocks` inside the model, the others inside one block.

    `attention` holds query, key and value; `mixed` and `final` are the modules that take (new, residual).
    """

    blocks: str
    attention: str
    mixed: str
    widened: str
    final: str

    def dense(self, position: Position) -> str:
        """Path of the dense layer whose output a shift at `position` is added to."""
        return {"attention": self.mixed, "intermediate": self.widened, "output": self.final}[position] + ".dense"


_BERT = Architecture(
    blocks="encoder.layer",
    attention="attention.self",
    mixed="attention.output",
    widened="intermediate",
    final="output",
)
ARCHITECTURES: dict[str, Architecture] = {"bert": _BERT, "roberta": _BERT, "xlm-roberta": _BERT}


def architecture(config: Any) -> Architecture:
    """The row of a Hugging Face config's `model_type`. Raises UserError where there is none."""
    kind = getattr(config, "model_type", None)
    if kind not in ARCHITECTURES:
        raise UserError(
            f"the model must be one of {', '.join(ARCHITECTURES)}, got {kind!r}; pass --model with such a checkpoint"
        )
    return ARCHITECTURES[kind]


def blocks(backbone: nn.Module) -> nn.ModuleList:
    """The backbone's transformer blocks, first to last."""
    found = backbone.get_submodule(architecture(backbone.config).blocks)
    assert isinstance(found, nn.ModuleList)
    return found


def replace(root: nn.Module, path: str, new: nn.Module) -> None:
    """Put `new` where `path` points below `root`."""
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, new)
