"""Communication between the ranks that train one model. Each rank has a share of the batch; only rank 0 has the ledger,
the noise and the run folder.

In each step only two things pass between ranks. Rank 0 charges the step and then receives the sum of the clipped
gradients; it adds the noise and broadcasts the noisy gradient. So the noise is drawn once, and a rank that dies can at
worst leave a step that is charged but not released.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor

from dpft.errors import UserError

Part = TypeVar("Part")
_FIRST, _WHY = 0, "dpft/why"


class RankLost(UserError):
    """Another rank has died or has not answered within the timeout."""


class SingleProcess:
    """A team of one process: every operation is local. `Ranks` overrides it for several processes."""

    @property
    def first(self) -> bool:
        """Whether this is rank 0, which has the ledger, the secret and the run folder."""
        return True

    def broadcast(self, message: Mapping[str, Any]) -> None:
        """Broadcast a JSON message to the other ranks, which receive it with `receive`."""

    def from_first(self, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """Call `make` on rank 0 and return its value on every rank."""
        return make()

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Broadcast named CPU tensors to the other ranks, which receive them with `receive_tensors`."""

    def check_equal(self, what: str, *parts: bytes | NDArray[Any]) -> None:
        """Raise UserError if `parts` differ between ranks. `what` names them in the message."""

    def own(self, parts: Sequence[Part]) -> Sequence[Part]:
        """This rank's share of `parts`: each part goes to exactly one rank."""
        return parts

    def all_gather(self, filled: NDArray[np.float32]) -> NDArray[np.float32]:
        """Combine an array of which each rank has filled its own share and left the rest zero."""
        return filled

    def scatter(self, drawn: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Scatter the batch drawn on rank 0 and return this rank's share, as unit numbers.

        drawn: (n,) unit numbers; tokens: (n,) tokens of each. Only rank 0's arguments are used.
        """
        return drawn

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors` in place with those of rank 0."""

    def on_first_then_barrier(self, act: Callable[[], None]) -> None:
        """Call `act` on rank 0. A barrier: no rank continues before `act` is done and all ranks have arrived."""
        act()

    def total_over_ranks(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Sum each tensor over the ranks, in its own precision. Only rank 0's result is valid."""
        return list(parts)

    def broadcast_from_first(self, make: Callable[[], list[Tensor]], like: Sequence[Tensor]) -> list[Tensor]:
        """Call `make` on rank 0 and broadcast its tensors. like: tensors of the same shapes and dtypes."""
        return make()


SINGLE_PROCESS = SingleProcess()


class Store(Protocol):
    """The part of a `torch.distributed` store that is used: an atomic compare-and-set."""

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes: ...


class Ranks(SingleProcess):
    """Processes joined by `torch.distributed`. `store`: where the first rank to fail writes its reason."""

    def __init__(self, store: Store) -> None:
        self.rank, self.size, self._store = dist.get_rank(), dist.get_world_size(), store

    @property
    def first(self) -> bool:
        return self.rank == _FIRST

    def broadcast(self, message: Mapping[str, Any]) -> None:
        self._spread(json.dumps(message).encode())

    def receive(self) -> dict[str, Any]:
        """Receive the next message of rank 0."""
        found: dict[str, Any] = json.loads(self._spread(b""))
        return found

    def from_first(self, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        if not self.first:
            return self.receive()
        message = make()
        self.broadcast(message)
        return message

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._spread(save(dict(tensors)))

    def receive_tensors(self) -> dict[str, Tensor]:
        return load(self._spread(b""))

    def check_equal(self, what: str, *parts: bytes | NDArray[Any]) -> None:
        total = hashlib.sha256()
        for part in parts:
            total.update(hashlib.sha256(part if isinstance(part, bytes) else np.ascontiguousarray(part).data).digest())
        mine = torch.frombuffer(bytearray(total.digest()), dtype=torch.uint8)
        each = [torch.empty_like(mine) for _ in range(self.size)]
        with _together():
            dist.all_gather(each, mine)
        others = [str(rank) for rank, digest in enumerate(each) if not torch.equal(digest, each[_FIRST])]
        if others:
            raise UserError(
                f"all ranks must have the same {what}, got another on rank {', '.join(others)}; "
                "give every rank the same files, packages and kind of device"
            )

    def own(self, parts: Sequence[Part]) -> Sequence[Part]:
        return parts[self.rank :: self.size]

    def all_gather(self, filled: NDArray[np.float32]) -> NDArray[np.float32]:
        with _together():
            dist.all_reduce(torch.from_numpy(filled))
        return filled

    def scatter(self, drawn: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """Round-robin from the longest unit down: two ranks' tokens differ by at most those of the longest unit."""
        order = drawn[np.argsort(-tokens, kind="stable")].astype("<i8")
        return np.frombuffer(self._spread(order.tobytes()), "<i8").astype(np.int64)[self.rank :: self.size]

    def copy_from_first(self, tensors: Sequence[Tensor]) -> None:
        if tensors:
            for own, firsts in zip(tensors, self.broadcast_from_first(lambda: list(tensors), tensors), strict=True):
                own.data.copy_(firsts)

    def on_first_then_barrier(self, act: Callable[[], None]) -> None:
        if self.first:
            act()
        with _together():
            dist.all_reduce(torch.zeros(1))  # on the CPU, where gloo notices a dead peer at once

    def total_over_ranks(self, parts: Sequence[Tensor]) -> list[Tensor]:
        flat = _flat(parts)
        with _together():
            dist.reduce(flat, _FIRST)
        return _shaped(flat, parts)

    def broadcast_from_first(self, make: Callable[[], list[Tensor]], like: Sequence[Tensor]) -> list[Tensor]:
        flat = _flat(make()) if self.first else _flat([torch.empty_like(one) for one in like])
        with _together():
            dist.broadcast(flat, _FIRST)
        return _shaped(flat, like)

    def is_first_to_report(self, why: str) -> bool:
        """True for the one rank that reports to the user why all ranks stop."""
        mine = f"rank {self.rank}: {why}"
        try:
            return bool(self._store.compare_set(_WHY, "", mine) == mine.encode())
        except RuntimeError:  # the store died with the rank that hosted it
            return True

    def _spread(self, content: bytes) -> bytes:
        """Broadcast bytes from rank 0."""
        with _together():
            length = torch.tensor([len(content)])
            dist.broadcast(length, _FIRST)
            buffer = torch.empty(int(length), dtype=torch.uint8)
            if self.first and content:
                buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            if len(buffer):
                dist.broadcast(buffer, _FIRST)
        return buffer.numpy().tobytes()


Team = SingleProcess | Ranks


def _flat(parts: Sequence[Tensor]) -> Tensor:
    """All tensors concatenated into one flat copy, in the widest of their dtypes."""
    return torch.cat([part.detach().flatten() for part in parts])


def _shaped(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    pieces = flat.split([one.numel() for one in like])
    return [piece.reshape(one.shape).to(one.dtype) for piece, one in zip(pieces, like, strict=True)]


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Wrap a collective operation: turn a lost connection or a timeout into `RankLost`."""
    try:
        yield
    except RuntimeError as error:  # a broken connection or a timeout
        raise RankLost(
            "all ranks must live until the training ends, got one that died or fell silent; go on with dpft resume RUN"
        ) from error
