"""dpft tasks: what can be trained on."""

from __future__ import annotations

from dpft.cli import _flags, _show


def tasks(as_json: _flags.Json = False) -> None:
    """List the tasks."""
    from dpft import tasks as known

    if as_json:
        _show.print_json([{"name": name, "summary": text} for name, text in known.names().items()])
        return
    for name, text in known.names().items():
        print(f"{name:<12}{text}")
    print("\nGLUE comes from the hub (nyu-mll/glue), or from --data DIR with train.parquet and validation.parquet")
