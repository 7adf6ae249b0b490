"""Several ranks against one process: the same private step on the same batches and cores, interleaved.

python -m dpft.benchmarks.ranks [--ranks 2] [--task glue/sst2 --data DIR] [--json]
"""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.distributed as dist
import typer
from dpft.benchmarks import _work
from dpft.benchmarks._meter import spread
from dpft.benchmarks._work import BATCH, DpftStep, Work
from torch.distributed.rendezvous import rendezvous

from dpft.machine.team import Ranks
from dpft.privacy.mechanism.poisson_sampler import poisson_batches
from dpft.privacy.randomness import Secret
from dpft.spec import Spec


class Crew:
    """`size` processes of one thread each, which take a step together on each batch they receive."""

    def __init__(self, size: int, words: list[str], scratch: Path) -> None:
        command = [sys.executable, "-W", "ignore", "-m", "dpft.benchmarks.ranks", *words, "--ranks", str(size)]
        self.members = [
            subprocess.Popen(
                [*command, "--member", str(rank), "--scratch", str(scratch)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            )
            for rank in range(size)
        ]  # fmt: skip
        self._answer()

    def step(self, drawn: Any) -> float:
        """Seconds of one step on rows `drawn` (n,), measured by rank 0."""
        pipe = self.members[0].stdin
        assert pipe is not None
        print(json.dumps(drawn.tolist()), file=pipe, flush=True)
        return self._answer()

    def close(self) -> None:
        for member in self.members:
            assert member.stdin is not None
            member.stdin.close()
        for member in self.members:
            member.wait()

    def _answer(self) -> float:
        assert self.members[0].stdout is not None
        line = self.members[0].stdout.readline()
        if not line:
            raise typer.Exit(1)  # the child has printed the reason on stderr
        return float(line)


def member(rank: int, size: int, work: Work, scratch: Path) -> None:
    """The main function of one process: rank 0 reads batches from stdin, and each rank takes its share."""
    torch.set_num_threads(1)
    store, _, _ = next(rendezvous(f"file://{scratch / 'store'}", rank, size))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    ranks = Ranks(store)
    ours = DpftStep(work, work.hardware, private=True, ranks=ranks)
    ranks.check_equal("encoder", ours.adapted.model.digest.encode())
    if ranks.first:
        print(0.0, flush=True)
        for line in sys.stdin:
            ranks.broadcast({"go": True})
            print(_seconds(ours, np.array(json.loads(line), np.int64)), flush=True)
        ranks.broadcast({"go": False})
    else:
        while ranks.receive()["go"]:
            ours(np.empty(0, np.int64))
    dist.destroy_process_group()


def measure(work: Work, crew: Crew, threads: int, repeats: int) -> dict[str, Any]:
    """Seconds of a step by one process with `threads` threads, and by `crew`, on the same Poisson batches."""
    torch.set_num_threads(threads)
    alone = DpftStep(work, work.hardware, private=True)
    takes: dict[str, Callable[[Any], float]] = {
        "one process": functools.partial(_seconds, alone), "ranks": crew.step
    }  # fmt: skip
    seconds: dict[str, list[float]] = {name: [] for name in takes}
    batches = itertools.islice(poisson_batches(len(work.task.train), work.plan, Secret()), repeats + 1)
    for number, drawn in enumerate(batches):
        for name in list(takes)[:: -1 if number % 2 else 1]:
            seconds[name].append(takes[name](drawn))
    timed = {name: every[1:] for name, every in seconds.items()}  # the first batch warms up
    ratios = [a / b for a, b in zip(timed["one process"], timed["ranks"], strict=True)]
    return {
        "ranks": threads, "precision": work.hardware.precision, "rounds": repeats, "batch_size": work.batch,
        "one_process_seconds": spread(timed["one process"]), "ranks_seconds": spread(timed["ranks"]),
        "times_faster": spread(ratios),
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    """The measurements as a text table."""
    count = found["ranks"]
    rows = [
        (f"one process, {count} threads, s", found["one_process_seconds"]),
        (f"{count} ranks, 1 thread each, s", found["ranks_seconds"]),
        ("times faster by ranks", found["times_faster"]),
    ]
    head = (
        f"private steps of {found['batch_size']} rows in {found['precision']}, torch {torch.__version__}, "
        f"{found['rounds']} rounds; median (least-most)"
    )
    return "\n".join(
        [head, "", *(f"{name:<32}{'{median:.2f} ({min:.2f}-{max:.2f})'.format(**v):>24}" for name, v in rows)]
    )


def _seconds(ours: DpftStep, drawn: Any) -> float:
    start = time.perf_counter()
    ours(drawn)
    return time.perf_counter() - start


def main(
    ranks: Annotated[int, typer.Option(help="Processes of one thread each.", min=1)] = 2,
    task: _work.TaskFlag = Spec.task,
    data: _work.DataFlag = None,
    model: _work.ModelFlag = Spec.model,
    batch_size: _work.BatchSizeFlag = BATCH,
    precision: _work.PrecisionFlag = "auto",
    repeats: _work.RepeatsFlag = 5,
    member_rank: Annotated[int | None, typer.Option("--member", hidden=True)] = None,
    scratch: Annotated[Path | None, typer.Option(hidden=True)] = None,
    as_json: _work.JsonFlag = False,
) -> None:
    """Time a private step on several processes of one thread each, and on one process with as many threads."""
    spec = Spec(task=task, data=data, model=model, batch_size=batch_size)
    if member_rank is not None and scratch is not None:
        member(member_rank, ranks, Work(spec, scratch, "cpu", precision), scratch)  # type: ignore[arg-type]
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Work(spec, Path(folder), "cpu", precision)  # type: ignore[arg-type]
        given = {"task": task, "data": data, "model": model, "batch-size": batch_size,
                 "precision": work.hardware.precision}  # fmt: skip
        words = [w for flag, value in given.items() if value is not None for w in (f"--{flag}", str(value))]
        crew = Crew(ranks, words, Path(folder))
        found = measure(work, crew, ranks, repeats)
        crew.close()
    print(json.dumps(found) if as_json else table(found))


if __name__ == "__main__":
    _work.start("ranks", main)
