"""Kills `dpft train` and `dpft resume` at chosen moments. Run as a script: everything is loaded once, then forked.

argv: a JSON object with `train` (the words after `dpft`), `runs`, `ledger`, `releases` (a file), `kills` (how many) and
`points` (names of POINTS, or "random"). Prints a JSON list, one object a kill.

A release is counted where the noise is drawn, into `releases`, outside run folder and ledger: "process run step".
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

POINTS = (
    "before reserve", "after reserve", "mid-backward", "before charge", "after charge", "after noise", "before save",
    "half a save", "after save", "before settle", "after settle",
)  # fmt: skip


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner: Any, name: str, act: Callable[..., None], count: int = 1) -> None:
    """`act` just before the `count`-th call of owner.name."""
    real, calls = getattr(owner, name), iter(range(10**9))

    def call(*words: Any, **more: Any) -> Any:
        if next(calls) + 1 == count:
            act(*words)
        return real(*words, **more)

    setattr(owner, name, call)


def after(owner: Any, name: str, count: int = 1) -> None:
    """Death just after the `count`-th call of owner.name."""
    real, calls = getattr(owner, name), iter(range(10**9))

    def call(*words: Any, **more: Any) -> Any:
        found = real(*words, **more)
        if next(calls) + 1 == count:
            die()
        return found

    setattr(owner, name, call)


def arm(point: str, step: int) -> None:
    """Have this process die at `point`, in its `step`-th step where the point is one of a step's."""
    import dpft.runs.folder
    from dpft.privacy.ledger import Ledger
    from dpft.privacy.mechanism.step import PrivateStep
    from dpft.training.checkpoints import Checkpoints

    def forget(*_words: Any) -> None:
        die()

    places: dict[str, Callable[[], None]] = {
        "before reserve": lambda: before(Ledger, "reserve", forget),
        "after reserve": lambda: after(Ledger, "reserve"),
        "mid-backward": lambda: before(PrivateStep, "_sum", lambda self, _: before(self, "clipper", forget), step),
        "before charge": lambda: before(Ledger, "charge", forget, step),
        "after charge": lambda: after(Ledger, "charge", step),
        "after noise": lambda: after(PrivateStep, "_noise", 3 * step - 1),
        "before save": lambda: before(Checkpoints, "save_when_due", forget, step),
        "half a save": lambda: before(dpft.runs.folder.os, "replace", forget, 3 + step),
        "after save": lambda: after(Checkpoints, "save_when_due", step),
        "before settle": lambda: before(Ledger, "settle", forget),
        "after settle": lambda: after(Ledger, "settle"),
    }
    places[point]()


def count_releases(file: Path) -> None:
    """Write down each step whose noise was drawn, at once."""
    from dpft.privacy.mechanism.step import PrivateStep

    take, draw = PrivateStep.__call__, PrivateStep._noise

    def step(self: Any, number: int, batches: Any) -> None:
        self.number = number
        take(self, number, batches)

    def noise(self: Any, like: Any) -> Any:
        with open(file, "a") as out:
            out.write(f"{os.getpid()} {self.run} {self.number}\n")
        return draw(self, like)

    PrivateStep.__call__, PrivateStep._noise = step, noise  # type: ignore[method-assign]


def forked(words: list[str], asked: dict[str, Any], point: str | None, step: int, seconds: float | None) -> bool:
    """`dpft WORDS` in a process of its own; killed after `seconds`, or by itself. True where it was killed."""
    process = os.fork()
    if process == 0:
        try:
            from dpft.cli import main

            count_releases(Path(asked["releases"]))
            if point is not None:
                arm(point, step)
            sys.argv = ["dpft", *words]
            with contextlib.redirect_stdout(io.StringIO()):
                main()
        except SystemExit as done:
            os._exit(int(done.code or 0))
        os._exit(9)
    if seconds is not None:
        time.sleep(seconds)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    status = os.waitpid(process, 0)[1]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status) != 0:
        sys.exit(f"dpft {' '.join(words)} ended with {os.WEXITSTATUS(status)} at {point}")
    return os.WIFSIGNALED(status)


def state(asked: dict[str, Any]) -> list[dict[str, Any]]:
    """What each reservation of the ledger says, and what was truly released."""
    from dpft.privacy.ledger import Ledger

    file = Path(asked["releases"])
    released: dict[str, list[tuple[str, str]]] = {}
    for line in file.read_text().splitlines() if file.exists() else ():
        process, run, step = line.split()
        released.setdefault(run, [])
        if (process, step) not in released[run]:
            released[run].append((process, step))
    with Ledger(asked["ledger"]) as book:
        book.verify()
        runs = [run for one in book.view().populations.values() for run in one.runs]
        return [
            {"run": run.terms.run, "charged": run.charged, "planned": run.terms.steps, "counted": run.steps,
             "settled": run.settled, "released": released.get(run.terms.run, [])}
            for run in runs
        ]  # fmt: skip


def prepare() -> None:
    """Before anything is forked: one thread, a quick bound over runs, and all imports that a training puts off.

    Without these, imports are two thirds of a small run. Nothing that starts threads is called here: a fork has none.
    """
    import torch

    put_off = (
        "dpft.cli.app", "pandas", "pyarrow.parquet", "sklearn.metrics", "sqlite3", "sqlalchemy.dialects.sqlite",
        "torch._dynamo", "transformers.models.auto.modeling_auto", "transformers.models.auto.tokenization_auto",
        "transformers.models.bert.modeling_bert", "transformers.models.bert.tokenization_bert",
        "dpft.compare.running.work", "dpft.privacy.ledger.export", "dpft.privacy.accounting.random_search",
        "dpft.training.train",
    )  # fmt: skip
    for name in put_off:
        importlib.import_module(name)
    from dpft.privacy.accounting import segments
    from dpft.privacy.accounting.accountants import RDP
    from dpft.privacy.accounting.rdp import heterogeneous_rdp

    def in_process(every: Any, delta: float) -> segments.Bound:
        """The population's bound at a run's end, without a process for each accountant: it is not what is tested."""
        return segments.Bound(heterogeneous_rdp([(s.noise, s.rate, s.steps) for s in every], delta), RDP, {})

    torch.set_num_threads(1)
    segments.epsilon_of = in_process  # type: ignore[assignment]


def answer(runs: Path) -> None:
    """Ask the accountants what the run in `runs` asked them."""
    from dpft.runs.folder import Run

    (folder,) = runs.iterdir()
    plan = Run.open(folder).plan
    assert plan.budget is not None
    answer_for(plan.rate, plan.steps, plan.budget.epsilon, plan.budget.delta)


def answer_for(rate: float, steps: int, epsilon: float, delta: float) -> None:
    """Ask the accountants what runs of this plan ask them: they keep their answers, and every fork has them then."""
    from dpft.privacy.accounting.accountants import epsilon_curve
    from dpft.privacy.accounting.rdp import FILTER_ORDERS, heterogeneous_rdp, one_step
    from dpft.privacy.calibration.calibrate import calibrate
    from dpft.spec import Budget

    noise, _, _ = calibrate(rate, steps, Budget(epsilon, delta))
    epsilon_curve(noise, rate, steps, delta)
    heterogeneous_rdp([(noise, rate, steps)], delta)
    one_step(noise, rate, FILTER_ORDERS)


def resumable(folder: Path) -> bool:
    """Reserved and not finished. One that was killed before its reservation has spent nothing."""
    if not (folder / "run.json").exists():
        from dpft.privacy.ledger import Ledger
        from dpft.runs.folder import Run

        run = Run.intended(folder)
        if run is None:
            return False
        with Ledger(run.ledger) as book:
            return book.reservation(run.id) is not None
    return not (folder / "result.json").exists()


def main() -> None:
    asked = json.loads(sys.argv[1])
    chance = Random(asked.get("seed", 0))
    prepare()
    runs = Path(asked["runs"])
    forked(asked["train"], asked, None, 0, None)
    answer(runs)
    whole = 0.0
    if "random" in asked["points"]:  # how long a run takes that finds those answers
        started = time.monotonic()
        forked(asked["train"], asked, None, 0, None)
        whole = time.monotonic() - started
    report, open_run = [{"point": "none", "killed": False, "runs": state(asked)}], None
    for number in range(asked["kills"]):
        point = asked["points"][number % len(asked["points"])]
        known = set(runs.iterdir())
        words = asked["train"] if open_run is None else ["resume", str(open_run), "--precision", "fp32"]
        if point == "random":
            killed = forked(words, asked, None, 0, chance.uniform(0, whole))
        else:
            killed = forked(words, asked, point, chance.randint(1, 4), None)
        fresh = [run for run in runs.iterdir() if run not in known]
        folder = open_run or (fresh[0] if fresh else None)
        alive = folder is not None and resumable(folder)
        open_run = folder if alive and point == "random" else None
        if alive and point != "random":
            forked(["resume", str(folder), "--precision", "fp32"], asked, None, 0, None)
        report.append({"point": point, "killed": killed, "runs": state(asked)})
    if open_run is not None:
        forked(["resume", str(open_run), "--precision", "fp32"], asked, None, 0, None)
        report.append({"point": "none", "killed": False, "runs": state(asked)})
    print(json.dumps(report))


if __name__ == "__main__":
    main()
