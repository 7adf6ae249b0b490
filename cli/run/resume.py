"""dpft resume: resume an interrupted run."""

from __future__ import annotations

import functools

from dpft.cli import _flags, _show


def resume(
    run: _flags.RunArgument,
    device: _flags.Device = "auto",
    precision: _flags.Precision = "auto",
    tokens_per_microbatch: _flags.Tokens = None,
    as_json: _flags.Json = False,
) -> None:
    """Resume an interrupted run. It spends only what its plan has left."""
    from dpft.training.resume import resume as finish

    bar = _show.Bar()
    machine = _flags.machine(device, precision, tokens_per_microbatch)
    _show.follow(bar, functools.partial(finish, run, machine=machine, progress=bar), as_json)
