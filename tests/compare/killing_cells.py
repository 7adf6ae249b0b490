"""Kills `dpft compare` at chosen moments, and starts it again each time. Run as a script, as tests/killing.py is.

argv: a JSON object with `compare` (the words after `dpft`), `plan` (of its cells: rate, steps, epsilon, delta),
`ledger`, `releases` (a file) and `points`. Prints a JSON object: how many times it was `killed`, the steps that two
processes released (`twice`), the reservations (`runs`).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path
from random import Random

from tests import killing


def forked(words: list[str], releases: Path, point: str | None, step: int, seconds: float | None) -> bool:
    """`dpft WORDS` in a process of its own, which dies at `point` of its cells or after `seconds`. True if it did."""
    process = os.fork()
    if process == 0:
        try:
            from dpft.cli import main

            import dpft.compare.running.run_cells

            killing.count_releases(releases)
            if point is not None:
                killing.before(dpft.compare.running.run_cells, "run_all_cells", lambda *_: killing.arm(point, step))
            sys.argv = ["dpft", *words]
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()) as said:
                main()
        except SystemExit as done:
            if done.code:
                sys.stderr.write(said.getvalue())
            os._exit(int(done.code or 0))
        os._exit(9)
    if seconds is not None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, 9)
    status = os.waitpid(process, 0)[1]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != 0:
        sys.exit(f"dpft {' '.join(words)} ended with {os.WEXITSTATUS(status)} at {point}")
    return os.WIFSIGNALED(status)


def main() -> None:
    asked = json.loads(sys.argv[1])
    killing.prepare()
    killing.answer_for(*asked["plan"])
    chance, releases, killed = Random(asked.get("seed", 0)), Path(asked["releases"]), 0
    words = asked["compare"]
    for number, point in enumerate(asked["points"]):
        seconds = chance.uniform(0, asked["seconds"]) if point == "random" else None
        killed += forked(words, releases, None if seconds else point, 1 + number % 4, seconds)
    forked(words, releases, None, 0, None)
    lines = [line.split() for line in releases.read_text().splitlines()]
    noise: dict[str, set[str]] = {}
    for process, run, step in lines:
        noise.setdefault(f"{run} {step}", set()).add(process)
    twice = sorted(at for at, processes in noise.items() if len(processes) > 1 and not at.startswith("probe"))
    print(json.dumps({"killed": killed, "twice": twice, "runs": killing.state(asked)}))


if __name__ == "__main__":
    main()
