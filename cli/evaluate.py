"""dpft evaluate: the metric of a finished run."""

from __future__ import annotations

from dpft.cli import _flags, _show


def evaluate(
    run: _flags.RunArgument,
    device: _flags.Device = "auto",
    precision: _flags.Precision = "auto",
    tokens_per_microbatch: _flags.Tokens = None,
    as_json: _flags.Json = False,
) -> None:
    """Judge a finished run on its task's validation rows."""
    from dpft.card import NOT_PRIVATE
    from dpft.trained import load

    trained = load(run, machine=_flags.machine(device, precision, tokens_per_microbatch))
    metric, value = trained.evaluate()
    if as_json:
        _show.print_json({"run": str(run), "metric": metric, "value": value, "private": trained.private})
        return
    mark = "" if trained.private else f"   {NOT_PRIVATE}"
    print(f"{metric} {value:.4f} on the validation rows of {trained.run.spec.task} (without noise){mark}")
