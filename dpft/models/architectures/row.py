"""What is said of an architecture: the dotted paths of modules inside its stock model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

from torch import nn

Position = Literal["output", "attention", "intermediate"]
Dense = Literal["query", "key", "value", "attention", "gate", "intermediate", "output"]
DENSE: tuple[Dense, ...] = get_args(Dense)


@dataclass(frozen=True)
class OneToken:
    """Paths inside a block that can run for one query: self-attention, and the modules that take (new, residual)."""

    attention: str
    mixed: str
    widened: str
    final: str


@dataclass(frozen=True)
class Architecture:
    """Module paths of an architecture: `blocks` and `words` in the model, the dense layers in one block.

    A star in `blocks` stands for every number. The residual is added to the outputs of the dense layers `attention`
    and `output`. `gate`: the layer that multiplies `intermediate`, where it is one of its own. `one`: set where a block
    can run for one query. `shared`: blocks run several times. `tables`: dense layers that also read a position table,
    with one row for all examples. `counted`: position ids are made once for all examples unless passed. `common`: other
    parameters act once for all examples, such as distance tables. `decoder`: a causal model, which writes text; the
    paths are those of its base model. `biases`:
    options of its config that give some dense layers a bias, with these layers.
    """

    blocks: str
    words: str
    query: str
    key: str
    value: str
    attention: str
    intermediate: str
    output: str
    gate: str = ""
    positions: str = ""
    one: OneToken | None = None
    shared: bool = False
    tables: frozenset[Dense] = frozenset()
    counted: bool = False
    common: bool = False
    decoder: bool = False
    biases: tuple[tuple[str, tuple[Dense, ...]], ...] = ()

    def dense(self, name: Dense) -> str:
        """Path of a dense layer inside a block; "" where the architecture has none."""
        return cast(str, getattr(self, name))


def replace(root: nn.Module, path: str, new: nn.Module) -> None:
    """Replace the module at `path` below `root` by `new`."""
    parent, _, name = path.rpartition(".")
    setattr(root.get_submodule(parent), name, new)
