"""Inference cost of a method: the merged encoder and the unmerged one, relative to the bare encoder.

python -m dpft.benchmarks.inference [--method slash --method lora ...] [--model M]
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
import typer
from dpft.benchmarks import _work
from dpft.benchmarks._meter import spread
from dpft.benchmarks.methods import parse
from torch import nn

from dpft import methods, models, tasks
from dpft.machine import hardware
from dpft.methods import CannotMerge
from dpft.spec import Machine, Spec
from dpft.tokens.encode import encode
from dpft.tokens.microbatch import microbatches


def measure(name: str, task: str, data: str | None, model: str, rows: int, repeats: int) -> dict[str, Any]:
    """Time ratios to the bare encoder, round by round, in interleaved rounds; also of the bare encoder to itself."""
    method, options = parse(name)
    spec = Spec(task=task, data=data, model=model, method=method, options=options)
    settled = hardware.resolve(Machine(device="cpu", precision="fp32"))
    loaded = tasks.load(spec)
    encoded = encode(loaded.train, models.tokenizer(model), spec.representation, spec.max_length)
    batches = list(microbatches(encoded, np.arange(min(rows, len(encoded))), settled.tokens))
    bare = models.load(spec, 2, settled)
    adapted = methods.load(method, options).attach(models.load(spec, 2, settled), seed=0).model

    def through(encoder: Any) -> Callable[[], None]:
        def run() -> None:
            for batch in batches:
                given = {"input_ids": batch.ids}
                if batch.allowed is not None:
                    given["attention_mask"] = batch.allowed.long()
                encoder(**given)

        return run

    def unmerged() -> None:
        for batch in batches:
            adapted(batch)

    ways: dict[str, Callable[[], None]] = {"bare": through(bare.backbone), "bare again": through(bare.backbone)}
    try:
        merged: nn.Module = methods.load(method, options).merge(adapted)
        ways["merged"] = through(merged)
    except CannotMerge:
        pass
    ways["unmerged"] = unmerged
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    with torch.inference_mode():
        for number in range(repeats + 1):
            for way in list(ways)[:: -1 if number % 2 else 1]:
                start = time.perf_counter()
                ways[way]()
                if number:
                    seconds[way].append(time.perf_counter() - start)
    over = {w: spread([a / b for a, b in zip(seconds[w], seconds["bare"], strict=True)]) for w in ways if w != "bare"}
    return {"method": name, "rows": sum(map(len, batches)), "over_bare": over}


def main(
    task: _work.TaskFlag = Spec.task,
    data: _work.DataFlag = None,
    model: _work.ModelFlag = Spec.model,
    method: _work.MethodsFlag = None,
    rows: Annotated[int, typer.Option(help="Rows a round.", min=1)] = 1024,
    repeats: _work.RepeatsFlag = 5,
    as_json: _work.JsonLinesFlag = False,
) -> None:
    """Time inference in float32 on the CPU with each method merged and not, as ratios to the bare encoder."""
    for name in method or [name for name in methods.names() if name not in ("peft", "linear")]:
        found = measure(name, task, data, model, rows, repeats)
        if as_json:
            print(json.dumps(found), flush=True)
            continue
        shown = [f"{way} {r['median']:.2f} ({r['min']:.2f}-{r['max']:.2f})" for way, r in found["over_bare"].items()]
        print(f"{name:<20} times the bare encoder: {', '.join(shown)}", flush=True)


if __name__ == "__main__":
    _work.start("inference", main)
