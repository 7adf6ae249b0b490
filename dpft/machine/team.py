"""The processes that train one model together: each has its share of a batch, the first has ledger, noise and files.

Of a step's numbers only two things pass between ranks: the clipped sums, to the first, once it has charged the step;
and the noisy gradient that it made of them, to all. So noise exists once, and a rank that dies can only leave a step
that is charged and not released.
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


class Lost(UserError):
    """Another rank is gone, or has not been heard of for too long."""


class Alone:
    """One process: it has everything itself."""

    @property
    def first(self) -> bool:
        """Whether this rank has ledger, secret and run folder."""
        return True

    def tell(self, message: Mapping[str, Any]) -> None:
        """Say something to the other ranks, who `hear` it."""

    def agreed(self, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """What `make` gives on the first rank, on all of them."""
        return make()

    def tell_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The same for tensors on the CPU, by name."""

    def alike(self, what: str, *parts: bytes | NDArray[Any]) -> None:
        """Raise UserError where the ranks' `parts` are not the same."""

    def own(self, parts: Sequence[Part]) -> Sequence[Part]:
        """This rank's share: each part belongs to one rank."""
        return parts

    def joined(self, filled: NDArray[np.float32]) -> NDArray[np.float32]:
        """The array of which each rank has filled in its share, and left the rest zero."""
        return filled

    def deal(self, drawn: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """This rank's share of the batch that the first rank has drawn. tokens: of each unit drawn.

        What the others give does not matter.
        """
        return drawn

    def agree(self, tensors: Sequence[Tensor]) -> None:
        """Overwrite `tensors` by the first rank's."""

    def after(self, act: Callable[[], None]) -> None:
        """`act` on the first rank; none goes on before it is done and all have come here."""
        act()

    def summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        """Sums over the ranks, in the parts' precision. Only the first rank's answer means anything."""
        return list(parts)

    def told(self, make: Callable[[], list[Tensor]], like: Sequence[Tensor]) -> list[Tensor]:
        """What `make` gives on the first rank, on all of them. like: tensors of its shapes and types."""
        return make()


ALONE = Alone()


class Store(Protocol):
    """What all ranks write to and read from, one by one: a `torch.distributed` store."""

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes: ...


class Ranks(Alone):
    """Processes joined by `torch.distributed`. `store`: where the first to stop says why."""

    def __init__(self, store: Store) -> None:
        self.rank, self.size, self._store = dist.get_rank(), dist.get_world_size(), store

    @property
    def first(self) -> bool:
        return self.rank == _FIRST

    def tell(self, message: Mapping[str, Any]) -> None:
        self._spread(json.dumps(message).encode())

    def hear(self) -> dict[str, Any]:
        """What the first rank tells next."""
        found: dict[str, Any] = json.loads(self._spread(b""))
        return found

    def agreed(self, make: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        if not self.first:
            return self.hear()
        message = make()
        self.tell(message)
        return message

    def tell_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        self._spread(save(dict(tensors)))

    def hear_tensors(self) -> dict[str, Tensor]:
        return load(self._spread(b""))

    def alike(self, what: str, *parts: bytes | NDArray[Any]) -> None:
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

    def joined(self, filled: NDArray[np.float32]) -> NDArray[np.float32]:
        with _together():
            dist.all_reduce(torch.from_numpy(filled))
        return filled

    def deal(self, drawn: NDArray[np.int64], tokens: NDArray[np.int64]) -> NDArray[np.int64]:
        """By turns from the longest down: two ranks' tokens differ by no more than the longest unit's."""
        order = drawn[np.argsort(-tokens, kind="stable")].astype("<i8")
        return np.frombuffer(self._spread(order.tobytes()), "<i8").astype(np.int64)[self.rank :: self.size]

    def agree(self, tensors: Sequence[Tensor]) -> None:
        if tensors:
            for own, firsts in zip(tensors, self.told(lambda: list(tensors), tensors), strict=True):
                own.data.copy_(firsts)

    def after(self, act: Callable[[], None]) -> None:
        if self.first:
            act()
        with _together():
            dist.all_reduce(torch.zeros(1))  # on the CPU: there a peer that died is noticed at once

    def summed(self, parts: Sequence[Tensor]) -> list[Tensor]:
        flat = _flat(parts)
        with _together():
            dist.reduce(flat, _FIRST)
        return _shaped(flat, parts)

    def told(self, make: Callable[[], list[Tensor]], like: Sequence[Tensor]) -> list[Tensor]:
        flat = _flat(make()) if self.first else _flat([torch.empty_like(one) for one in like])
        with _together():
            dist.broadcast(flat, _FIRST)
        return _shaped(flat, like)

    def is_first_to_say(self, why: str) -> bool:
        """True for the one rank that tells the user why all of them stop."""
        mine = f"rank {self.rank}: {why}"
        try:
            return bool(self._store.compare_set(_WHY, "", mine) == mine.encode())
        except RuntimeError:  # the store has gone with the rank that kept it
            return True

    def _spread(self, content: bytes) -> bytes:
        """The first rank's bytes, on all ranks."""
        with _together():
            length = torch.tensor([len(content)])
            dist.broadcast(length, _FIRST)
            buffer = torch.empty(int(length), dtype=torch.uint8)
            if self.first and content:
                buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
            if len(buffer):
                dist.broadcast(buffer, _FIRST)
        return buffer.numpy().tobytes()


Team = Alone | Ranks


def _flat(parts: Sequence[Tensor]) -> Tensor:
    """All parts end to end, as a copy in the widest of their types."""
    return torch.cat([part.detach().flatten() for part in parts])


def _shaped(flat: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    pieces = flat.split([one.numel() for one in like])
    return [piece.reshape(one.shape).to(one.dtype) for piece, one in zip(pieces, like, strict=True)]


@contextlib.contextmanager
def _together() -> Iterator[None]:
    """Around what needs all ranks alive."""
    try:
        yield
    except RuntimeError as error:  # of a connection that broke, or of no answer within the time limit
        raise Lost(
            "all ranks must live until the training ends, got one that died or fell silent; go on with dpft resume RUN"
        ) from error
