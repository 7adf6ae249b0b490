"""Training on several processes started by `torchrun`: rank 0 leads, the other ranks follow."""

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

_PATIENCE = timedelta(minutes=30)  # timeout for a rank that is alive but silent; a dead rank is noticed at once


class JsonResult(Protocol):
    """A result that can be sent to other processes as JSON."""

    def to_json(self) -> dict[str, Any]: ...


Result = TypeVar("Result", bound=JsonResult)


class ReportedElsewhere(UserError):
    """Another rank already reports this error to the user; this rank stays silent."""


class FollowerError(UserError):
    """The error that stops all ranks, reported by a rank other than rank 0."""


@dataclass(frozen=True)
class RankPlace:
    """This process's place in a `torchrun` group.

    `rank` and `size` count over all machines, `local_rank` and `local_size` on this one. `restarts`: how often torchrun
    has restarted the group.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    restarts: int

    @classmethod
    def found(cls) -> RankPlace | None:
        """Read the place from the environment. None if torchrun did not start this process."""
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            return None
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RESTART_COUNT")
        return cls(*(int(os.environ[name]) for name in names))


def is_silent(error: UserError | None = None) -> bool:
    """True if this process must print nothing, because another one reports `error` or the progress."""
    place = RankPlace.found()
    follows = place is not None and place.rank > 0
    return isinstance(error, ReportedElsewhere) or (follows and not isinstance(error, FollowerError))


def launch(
    lead: Callable[[Team, Machine], Result], follow: Callable[[Ranks, Machine], Result], machine: Machine
) -> Result:
    """Run `lead` in this process. Under torchrun, run `lead` on rank 0 and `follow` on all other ranks.

    All ranks return the same result.
    """
    from dpft.machine.team import SINGLE_PROCESS

    place = RankPlace.found()
    if place is None:
        return lead(SINGLE_PROCESS, machine)
    own = _own_device(machine, place)
    with _process_group(own.device.startswith("cuda")) as ranks:
        if not ranks.first:
            return follow(ranks, own)
        result = lead(ranks, own)
        ranks.broadcast({"result": result.to_json()})
        return result


def refuse_restart() -> None:
    """Refuse to start a new run after a torchrun restart: it would spend a second budget. Raises UserError."""
    place = RankPlace.found()
    if place is not None and place.restarts:
        raise UserError(
            f"an interrupted run must go on by dpft resume, got a restart (number {place.restarts}) by torchrun; "
            "drop --max-restarts"
        )


def _own_device(machine: Machine, place: RankPlace) -> Machine:
    """`machine` with a GPU that no other rank uses. Raises UserError if there are too few."""
    import torch

    if machine.device not in ("auto", "cuda"):
        if machine.device.startswith("cuda") and place.local_size > 1:
            raise UserError(
                f"each rank needs a GPU of its own, got --device {machine.device} for {place.local_size} ranks; "
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
def _process_group(gpus: bool) -> Iterator[Ranks]:
    """Join the process group for the duration of the block.

    If an error stops all ranks, one rank reports it to the user and the others raise SaidElsewhere.
    """
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    from dpft.machine.team import Ranks

    store, rank, size = next(rendezvous("env://", timeout=_PATIENCE))
    # Messages and row numbers use gloo, which notices a dead peer at once. Gradients on GPUs use NCCL.
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo", store=store, rank=rank, world_size=size,
        timeout=_PATIENCE,
    )  # fmt: skip
    ranks = Ranks(store)
    try:
        with _sigterm_as_interrupt():
            yield ranks
    except UserError as error:
        if not ranks.is_first_to_report(str(error)):
            raise ReportedElsewhere(str(error)) from None
        if ranks.first:
            raise
        raise FollowerError(f"{error} (rank {rank})") from None
    except BaseException as error:
        ranks.is_first_to_report(type(error).__name__)
        raise
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _sigterm_as_interrupt() -> Iterator[None]:
    """Treat SIGTERM like Ctrl-C inside the block.

    If a rank dies, torchrun sends SIGTERM to the others. They then close their files and tell the user how to resume.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
