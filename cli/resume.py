"""dpft resume: finish a run that was broken off."""

from __future__ import annotations

import json

from dpft.cli import _flags, _show


def resume(
    run: _flags.RunArgument,
    device: _flags.Device = "auto",
    precision: _flags.Precision = "auto",
    tokens_per_microbatch: _flags.Tokens = None,
    as_json: _flags.Json = False,
) -> None:
    """Finish a run that was broken off, spending only what its plan has left."""
    from dpft.training import resume as finish

    bar = _show.Bar()
    machine = _flags.machine(device, precision, tokens_per_microbatch)
    try:
        result = finish(run, machine=machine, progress=bar)
    finally:
        bar.broken_off()
    if as_json:
        _show.print_json(result.to_json())
    else:
        _show.outcome(result.to_json(), json.loads((result.path / "privacy.json").read_text()))
