"""Cost of privacy per step, measured side by side: our step, our step without privacy, and Opacus with PEFT.

python -m dpft.benchmarks.step_cost [--task glue/sst2 --data DIR] [--json]
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import torch
import typer
from dpft.benchmarks import _work
from dpft.benchmarks._meter import Cost, interleaved, peak_memory, ratio, spread
from dpft.benchmarks._work import BATCH, DpftStep, Variant, Work

from dpft.errors import UserError
from dpft.privacy.mechanism.poisson_sampler import poisson_batches
from dpft.privacy.randomness import Secret
from dpft.spec import Spec

BY_HAND, SORTED = "opacus-lora", "opacus-lora-sorted"
ABOUT = {
    "private": "our private step",
    "plain": "our step, NOT PRIVATE",
    "private-fp32": "our private step in float32",
    BY_HAND: "Opacus + PEFT LoRA r=8, random physical batches of 64",
    SORTED: "Opacus + PEFT LoRA r=8 on our sorted batches",
}


@dataclass(frozen=True)
class Aim:
    """A target for a figure. `most`: the aim is an upper bound, else a lower bound."""

    text: str
    aim: float
    found: float
    most: bool = False

    @property
    def met(self) -> bool:
        return self.found <= self.aim if self.most else self.found >= self.aim


def build(name: str, work: Work) -> Variant:
    """Build the named variant. Raises UserError for an unknown name, or if the baseline is not installed."""
    ours: dict[str, Callable[[], Variant]] = {
        "private": lambda: DpftStep(work, work.hardware, private=True),
        "plain": lambda: DpftStep(work, work.hardware, private=False),
        "private-fp32": lambda: DpftStep(work, work.at("fp32"), private=True),
    }
    if name in ours:
        return ours[name]()
    if name not in ABOUT:
        raise UserError(f"the variant must be one of {', '.join(ABOUT)}, got {name!r}; pass --variant")
    try:
        from dpft.benchmarks._peers import OpacusByHand, OpacusSorted
    except ImportError:
        raise UserError(
            "the baselines need the extra `bench`, got an installation without it; pip install 'dpft[bench]'"
        ) from None
    return OpacusByHand(work) if name == BY_HAND else OpacusSorted(work)


def measure(work: Work, names: Iterable[str], repeats: int) -> dict[str, Cost]:
    """Costs of the named variants over `repeats` Poisson batches, the same for all variants except ByHand."""
    variants = {name: build(name, work) for name in names}
    batches = list(itertools.islice(poisson_batches(len(work.task.train), work.plan, Secret()), repeats + 1))
    return interleaved(variants, batches, work.hardware.device)


def aims(costs: Mapping[str, Cost]) -> list[Aim]:
    """The aims for which there are costs."""
    found = []
    private = costs.get("private")
    if private and "plain" in costs:
        found.append(Aim("private over non-private time", 1.05, median(ratio(costs["plain"], private)), most=True))
    if private and BY_HAND in costs:
        found.append(Aim("times faster than Opacus + PEFT by hand", 9.0, median(ratio(private, costs[BY_HAND]))))
    if private:
        floor = {"bf16": 0.30, "fp32": 0.80}[private.precision]
        text = f"of the {private.precision} matrix-product peak"
        found.append(Aim(text, floor, median(private.fractions)))
    return found


def report(work: Work, costs: Mapping[str, Cost], memory: Mapping[str, float]) -> dict[str, Any]:
    """All measurements, as a JSON value."""
    first = next(iter(costs.values()))
    return {
        "task": work.spec.task, "model": work.spec.model, "examples": len(work.task.train),
        "batch_size": work.batch, "peer_rows": min(work.peer_rows, work.batch),
        "tokens_per_example": float(work.encoded("cls").lengths.mean()), "rounds": len(first.speeds),
        "device": work.hardware.device.type, "threads": torch.get_num_threads(), "torch": torch.__version__,
        "variants": {
            name: {
                "precision": cost.precision,
                "examples_per_second": spread(cost.speeds),
                "times_slower_than_first": spread(ratio(first, cost)),
                "of_peak": spread(cost.fractions),
                "gflop_per_example": cost.flops / 1e9,
                "peak_memory_mib": memory.get(name),
            }
            for name, cost in costs.items()
        },
        "aims": [{**dataclasses.asdict(aim), "met": aim.met} for aim in aims(costs)],
    }  # fmt: skip


def table(found: Mapping[str, Any]) -> str:
    """The report as text."""
    lines = [
        f"{found['task']} ({found['examples']} rows, {found['tokens_per_example']:.1f} tokens) with {found['model']}: "
        f"{found['batch_size']} rows a step ({found['peer_rows']} for {BY_HAND})",
        f"{found['device']}, {found['threads']} threads, torch {found['torch']}, {found['rounds']} rounds; "
        "median (least-most); slower: than the first row, round by round; memory: whole process",
        "",
        f"{'variant':<20}{'':<6}{'examples/s':>22}{'slower':>20}{'GF/example':>12}{'of peak':>9}{'memory MiB':>12}",
    ]
    for name, row in found["variants"].items():
        speed, slower, held = row["examples_per_second"], row["times_slower_than_first"], row["peak_memory_mib"]
        lines.append(
            f"{name:<20}{row['precision']:<6}"
            f"{'{median:.0f} ({min:.0f}-{max:.0f})'.format(**speed):>22}"
            f"{'{median:.2f} ({min:.2f}-{max:.2f})'.format(**slower):>20}"
            f"{row['gflop_per_example']:>12.2f}{row['of_peak']['median']:>9.0%}"
            f"{'-' if held is None else f'{held:.0f}':>12}"
        )
    lines += ["", *(f"{name}: {ABOUT[name]}" for name in found["variants"]), ""]
    for aim in found["aims"]:
        bound = "at most" if aim["most"] else "at least"
        lines.append(
            f"aim: {aim['text']} {bound} {aim['aim']:g}; found {aim['found']:.3g}: {'met' if aim['met'] else 'NOT met'}"
        )
    return "\n".join(lines)


def main(
    task: _work.TaskFlag = Spec.task,
    data: _work.DataFlag = None,
    model: _work.ModelFlag = Spec.model,
    batch_size: _work.BatchSizeFlag = BATCH,
    peer_rows: Annotated[int, typer.Option(help=f"Expected rows of a step of {BY_HAND}.")] = Work.peer_rows,
    dim: Annotated[int, typer.Option(help="SLaSh's d.")] = 1024,
    device: _work.DeviceFlag = "auto",
    precision: _work.PrecisionFlag = "auto",
    repeats: _work.RepeatsFlag = 5,
    variant: Annotated[list[str] | None, typer.Option(help=f"Only these: {', '.join(ABOUT)}.")] = None,
    memory: Annotated[bool, typer.Option(help="Measure memory, each variant in its own process.")] = True,
    measure_memory: Annotated[bool, typer.Option("--measure-memory", hidden=True)] = False,
    as_json: _work.JsonFlag = False,
) -> None:
    """Time one private step, the same step without privacy, and Opacus + PEFT, side by side."""
    warnings.simplefilter("ignore")  # the baselines' libraries warn in every micro-batch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    spec = Spec(task=task, data=data, model=model, batch_size=batch_size, representation="mask", options={"dim": dim})
    with tempfile.TemporaryDirectory() as scratch:
        work = Work(spec, Path(scratch), device, precision, peer_rows)  # type: ignore[arg-type]
        names = variant or [name for name in ABOUT if name != "private-fp32" or work.hardware.precision != "fp32"]
        if measure_memory:
            for name in names:
                build(name, work)(next(poisson_batches(len(work.task.train), work.plan, Secret())))
            print(peak_memory(work.hardware.device))
            return
        # First, while this process is small: on Linux a child's ru_maxrss starts at the memory of its parent.
        held = {name: _memory_alone(name, work) for name in names} if memory else {}
        costs = measure(work, names, repeats)
        found = report(work, costs, held)
    print(json.dumps(found) if as_json else table(found))


def _memory_alone(name: str, work: Work) -> float:
    """Peak memory in MiB of a fresh process that takes one step of one variant."""
    spec = work.spec
    flags = {
        "variant": name, "task": spec.task, "data": spec.data, "model": spec.model, "batch-size": spec.batch_size,
        "peer-rows": work.peer_rows, "dim": spec.options["dim"],
        "device": work.device, "precision": work.hardware.precision,
    }  # fmt: skip
    given = [word for flag, value in flags.items() if value is not None for word in (f"--{flag}", str(value))]
    child = subprocess.run(
        [sys.executable, "-m", "dpft.benchmarks.step_cost", "--measure-memory", *given],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if child.returncode != 0:
        raise typer.Exit(child.returncode)  # the child has printed the reason on stderr
    return float(child.stdout.split()[-1])


if __name__ == "__main__":
    _work.start("step_cost", main)
