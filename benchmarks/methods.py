"""Cost of each method: time and memory of its private step, and of the same step without privacy.

python -m dpft.benchmarks.methods [--method slash --method lora:rank=1,alpha=1 ...] [--task glue/sst2 --data DIR]
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from dpft.benchmarks import _work
from dpft.benchmarks._meter import interleaved, peak_memory, spread
from dpft.benchmarks._work import BATCH, DpftStep, Work

from dpft import methods
from dpft.privacy.mechanism.poisson_sampler import poisson_batches
from dpft.privacy.randomness import Secret
from dpft.spec import Spec


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Parse `lora:rank=1,alpha=1` into a name and options. Raises UserError."""
    name, _, rest = text.partition(":")
    pairs = [item.partition("=") for item in rest.split(",") if item]
    options = {key: value for key, _, value in pairs}
    methods.load(name, options)
    return name, options


def measure(work: Work, repeats: int) -> dict[str, Any]:
    """Seconds of a private step and of the same step without privacy, interleaved, over `repeats` Poisson batches."""
    variants = {
        "private": DpftStep(work, work.hardware, private=True),
        "plain": DpftStep(work, work.hardware, private=False),
    }
    batches = list(itertools.islice(poisson_batches(len(work.task.train), work.plan, Secret()), repeats + 1))
    costs = interleaved(variants, batches, work.hardware.device)
    adapted = variants["private"].adapted
    rows = [len(batch) for batch in batches[1:]]
    seconds = {name: [n / speed for n, speed in zip(rows, cost.speeds, strict=True)] for name, cost in costs.items()}
    ratios = [p / q for p, q in zip(seconds["private"], seconds["plain"], strict=True)]
    return {
        "trainable": sum(p.numel() for p in adapted.private), "gradients": adapted.gradients,
        "precision": work.hardware.precision, "private_seconds": spread(seconds["private"]),
        "plain_seconds": spread(seconds["plain"]), "private_over_plain": spread(ratios),
    }  # fmt: skip


def table(found: list[dict[str, Any]]) -> str:
    """The measurements as a text table."""
    head = f"{'method':<34}{'trains':>12}{'way':>8}{'private s':>11}{'plain s':>9}{'ratio':>20}{'MiB':>8}{'plain':>8}"
    lines = [head]
    for row in found:
        ratio, memory = row["private_over_plain"], row["memory_mib"]
        lines.append(
            f"{row['method']:<34}{row['trainable']:>12,}{row['gradients']:>8}"
            f"{row['private_seconds']['median']:>11.2f}{row['plain_seconds']['median']:>9.2f}"
            f"{'{median:.2f} ({min:.2f}-{max:.2f})'.format(**ratio):>20}"
            f"{memory['private']:>8.0f}{memory['plain']:>8.0f}"
        )
    return "\n".join(lines)


def main(
    task: _work.TaskFlag = Spec.task,
    data: _work.DataFlag = None,
    model: _work.ModelFlag = Spec.model,
    method: _work.MethodsFlag = None,
    batch_size: _work.BatchSizeFlag = BATCH,
    representation: Annotated[str, typer.Option(help="mask, cls or mean.")] = Spec.representation,
    device: _work.DeviceFlag = "auto",
    precision: _work.PrecisionFlag = "auto",
    repeats: _work.RepeatsFlag = 3,
    part: Annotated[str | None, typer.Option(hidden=True)] = None,
    as_json: _work.JsonLinesFlag = False,
) -> None:
    """Time every method's private step and the same step without privacy, each method in its own processes."""
    names = method or [name for name in methods.names() if name != "peft"]
    if part is not None:
        _part(part, names[0], task, data, model, batch_size, representation, device, precision, repeats)
        return
    about = (
        f"{task} with {model}, {batch_size} rows a step, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    found = []
    for name in names:
        parse(name)
        given = {
            "task": task, "data": data, "model": model, "method": name, "batch-size": batch_size, "device": device,
            "representation": representation, "precision": precision, "repeats": repeats,
        }  # fmt: skip
        memory = {kind: _child(kind, given)["mib"] for kind in ("private", "plain")}
        row = {"method": name, **_child("time", given), "memory_mib": memory}
        found.append(row)
        print(json.dumps(row) if as_json else f"{name} …", file=sys.stdout if as_json else sys.stderr, flush=True)
    if not as_json:
        print(f"{about}; median (least-most) of {repeats} rounds; memory: whole process\n\n{table(found)}")


def _part(part: str, name: str, *rest: Any) -> None:
    """Run one measurement in this process and print it as one line of JSON."""
    task, data, model, batch_size, representation, device, precision, repeats = rest
    method, options = parse(name)
    spec = Spec(
        task=task, data=data, model=model, method=method, options=options, batch_size=batch_size,
        representation=representation,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        work = Work(spec, Path(scratch), device, precision)
        if part == "time":
            print(json.dumps(measure(work, repeats)))
            return
        ours = DpftStep(work, work.hardware, private=part == "private")
        ours(next(poisson_batches(len(work.task.train), dataclasses.replace(work.plan), Secret())))
        print(json.dumps({"mib": peak_memory(work.hardware.device)}))


def _child(part: str, given: dict[str, Any]) -> dict[str, Any]:
    """Run one measurement in a fresh process. On Linux, its ru_maxrss starts at the memory of this small parent."""
    words = [w for flag, value in given.items() if value is not None for w in (f"--{flag}", str(value))]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "dpft.benchmarks.methods", "--part", part, *words],
        stdout=subprocess.PIPE, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise typer.Exit(done.returncode)  # the child has printed the reason on stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


if __name__ == "__main__":
    _work.start("methods", main)
