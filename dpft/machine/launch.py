"""One training on many processes, as `torchrun` starts them: the first leads, the others follow."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from dpft.errors import UserError
from dpft.spec import Machine

if TYPE_CHECKING:
    from dpft.machine.team import Ranks, Team

_PATIENCE = timedelta(minutes=30)  # with a rank that lives and says nothing; that one has died is noticed at once


class Told(Protocol):
    """A result that can be told to other processes."""

    def to_json(self) -> dict[str, Any]: ...


Result = TypeVar("Result", bound=Told)


class SaidElsewhere(UserError):
    """Another rank tells the user why all of them stop."""


class FollowerError(UserError):
    """Why all ranks stop, as a rank other than the first tells it."""


@dataclass(frozen=True)
class Place:
    """Where this process stands among those of one `torchrun`: its number on all machines, and on its own."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    restarts: int

    @classmethod
    def found(cls) -> Place | None:
        """None in a process that torchrun did not start."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
        return cls(*(int(os.environ[name]) for name in names))


def is_silent(error: UserError | None = None) -> bool:
    """True where another process tells the user: of `error`, or of how things go."""
    place = Place.found()
    follows = place is not None and place.rank > 0
    return isinstance(error, SaidElsewhere) or (follows and not isinstance(error, FollowerError))


def launched(
    lead: Callable[[Team, Machine], Result], follow: Callable[[Ranks, Machine], Result], machine: Machine
) -> Result:
    """`lead` in this process; under torchrun on the first rank, where all others `follow` it to the same result."""
    from dpft.machine.team import ALONE

    place = Place.found()
    if place is None:
        return lead(ALONE, machine)
    own = _own_device(machine, place)
    with _joined(own.device.startswith("cuda")) as ranks:
        if not ranks.first:
            return follow(ranks, own)
        result = lead(ranks, own)
        ranks.tell({"result": result.to_json()})
        return result


def refuse_restart() -> None:
    """Refuse a new run in a torchrun that starts again what broke off: it would spend a second budget."""
    place = Place.found()
    if place is not None and place.restarts:
        raise UserError(
            f"a training that broke off goes on by dpft resume, got a restart (number {place.restarts}) by torchrun; "
            "drop --max-restarts"
        )


def _own_device(machine: Machine, place: Place) -> Machine:
    """`machine` with a GPU that no other rank has."""
    import torch

    if machine.device not in ("auto", "cuda"):
        if machine.device.startswith("cuda") and place.local_size > 1:
            raise UserError(
                f"each rank takes a GPU of its own, got --device {machine.device} for {place.local_size}; "
                "pass --device cuda"
            )
        return machine
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if gpus == 0 and machine.device == "auto":
        return replace(machine, device="cpu")
    if gpus < place.local_size:
        raise UserError(
            f"each rank needs a GPU of its own, got {place.local_size} ranks and {gpus} GPUs; "
            f"pass --nproc-per-node {gpus} to torchrun, or --device cpu to dpft"
        )
    return replace(machine, device=f"cuda:{place.local_rank}")


@contextlib.contextmanager
def _joined(gpus: bool) -> Iterator[Ranks]:
    """This process among its ranks. Of what stops them all, one tells the user; the rest raise SaidElsewhere."""
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    from dpft.machine.team import Ranks

    store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
    # Words and rows go over gloo, which notices at once that a peer has died; gradients on GPUs over NCCL.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo", store=store, rank=rank, world_size=size,
        timeout=_PATIENCE,
    )  # fmt: skip
    ranks = Ranks(store)
    try:
        with _stopped_as_by_hand():
            yield ranks
    except UserError as error:
        if not ranks.is_first_to_say(str(error)):
            raise SaidElsewhere(str(error)) from None
        if ranks.first:
            raise
        raise FollowerError(f"{error} (rank {rank})") from None
    except BaseException as error:
        ranks.is_first_to_say(type(error).__name__)
        raise
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _stopped_as_by_hand() -> Iterator[None]:
    """Where a rank has died torchrun ends the others by SIGTERM: they close what is open, and say how to go on."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
