"""A battery of faults: each is one line and exit code 2, shows nobody's text, spends nothing and spoils nothing."""

from __future__ import annotations

import functools
import json
import shutil
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tests.faults.world import PLANTED, World


@dataclass(frozen=True)
class Fault:
    """What is done to the world, what is then asked for, and what the refusal says."""

    said: str
    words: tuple[object, ...] = ()
    spoil: Callable[[World], object] = lambda world: None
    verb: str = "train"


def option(value: str, said: str, method: str = "slash") -> Fault:
    return Fault(said, ("--method", method, "--option", value))


def table(said: str, change: Callable[[pd.DataFrame], object], split: str = "train") -> Fault:
    return Fault(said, spoil=lambda world: world.edit(change, split))  # type: ignore[arg-type]


def on_run(verb: str, said: str, spoil: Callable[[World], object], *words: object) -> Fault:
    return Fault(said, words, spoil, verb)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def rows_more(world: World) -> None:
    world.edit(lambda t: pd.concat([t, t.tail(5)]))


PARAMETERS = {
    "batch above the data": Fault("batch-size must be at most", ("--batch-size", 401)),
    "batch of none": Fault("batch-size must be a whole number", ("--batch-size", 0)),
    "epochs of none": Fault("epochs must be", ("--epochs", 0)),
    "epochs beyond counting": Fault("got", ("--epochs", 1e300)),
    "clip of none": Fault("clip must", ("--clip", 0)),
    "clip not a number": Fault("clip must", ("--clip", "nan")),
    "learning rate below none": Fault("learning-rate must", ("--learning-rate", -1)),
    "length below the special tokens": Fault("max-length must", ("--max-length", 2)),
    "length above the model's": Fault("max-length must be at most", ("--max-length", 4096)),
    "seed below none": Fault("seed must", ("--seed", -1)),
    "budget beyond sense": Fault("epsilon must be", ("--epsilon", 1e300)),
    "budget below float64": Fault("epsilon must be", ("--epsilon", 1e-12)),
    "delta of a chance to publish": Fault("delta must be below", ("--delta", 0.01)),
    "two budgets": Fault("private or not", ("--non-private",)),
    "unknown method": Fault("the method must be one of", ("--method", "slosh")),
    "unknown task": Fault("the task must be one of", ("--task", "glue/nope")),
    "unknown representation": Fault("representation must be one of", ("--representation", "pooler")),
    "unknown schedule": Fault("schedule must be one of", ("--schedule", "step")),
    "unknown optimizer": Fault("optimizer must be one of", ("--optimizer", "lion")),
    "unknown device": Fault("device must be", ("--device", "tpu9")),
    "unknown precision": Fault("precision must be one of", ("--precision", "int4")),
    "micro-batch of none": Fault("tokens-per-microbatch must", ("--tokens-per-microbatch", 0)),
    "unit that is no column": Fault("must be a column of train", ("--unit", "patient")),
    "unit's limit without a unit": Fault("max-per-unit goes with", ("--max-per-unit", 3)),
    "option of another method": option("rank=4", "the options of slash are"),
    "option without a value": option("dim", "KEY=VALUE"),
    "option of another type": option("dim=many", "dim must be"),
    "dim of none": option("dim=0", "dim must be"),
    "dim above the shifts": option("dim=100000", "dim must be at most 64"),
    "rank of none": option("rank=0", "rank must be", "lora"),
    "alpha not finite": option("alpha=nan", "alpha must be", "lora"),
    "targets that match nothing": option("targets=pooler", "targets must be of", "lora"),
    "bottleneck of none": option("bottleneck=0", "bottleneck must be", "adapter"),
    "style unknown": option("style=diagonal", "style must be one of", "adapter"),
    "terms that do not divide": option("terms=7", "terms must divide", "compacter"),
    "prompts beyond the model": option("prompts=4000", "prompts", "jr_warp"),
    "prompts of none": option("tokens=0", "tokens must be", "warp"),
    "rank of a carrier of none": option("rank=0", "rank must be", "rgp"),
    "runs below a file": Fault("must be writable", ("--runs", "model/config.json/runs")),
    "spec that is no file": Fault("--spec must name", ("--spec", "nowhere.json")),
    "spec of other fields": Fault(
        "a spec's fields are", ("--spec", "s.json"), lambda w: (w.home / "s.json").write_text('{"tsak": 1}')
    ),
    "spec cut off": Fault("--spec must name", ("--spec", "s.json"), lambda w: (w.home / "s.json").write_text('{"task')),
}

DATA = {
    "no folder": Fault("--data must be a folder", ("--data", "nowhere")),
    "no training split": Fault("train.parquet", spoil=lambda w: (w.data / "train.parquet").unlink()),
    "no validation split": Fault("validation.parquet", spoil=lambda w: (w.data / "validation.parquet").unlink()),
    "a file that is cut off": Fault("cannot be read", spoil=lambda w: cut(w.data / "train.parquet")),
    "a file of text": Fault("cannot be read", spoil=lambda w: (w.data / "train.parquet").write_text(PLANTED)),
    "an empty file": Fault("cannot be read", spoil=lambda w: (w.data / "train.parquet").write_bytes(b"")),
    "no rows": table("at least one row", lambda t: t.iloc[:0]),
    "no rows to judge by": table("at least one row", lambda t: t.iloc[:0], "validation"),
    "no text column": table("the columns must be", lambda t: t.rename(columns={"sentence": "words"})),
    "no label column": table("the columns must be", lambda t: t.drop(columns="label")),
    "a missing label": table("must have a label", lambda t: t.assign(label=t.label.where(t.index != 3))),
    "a label beyond the classes": table("must be whole numbers from 0 to 1", lambda t: t.assign(label=t.label + 1)),
    "labels of the test split": table("labels must be whole numbers from 0 to 1", lambda t: t.assign(label=-1)),
    "labels that are fractions": table("must be whole numbers", lambda t: t.assign(label=t.label + 0.5)),
    "labels that are words": table("must be numbers", lambda t: t.assign(label=[PLANTED] * len(t))),
    "a label that is not finite": table("label", lambda t: t.assign(label=[np.inf, *t.label[1:].astype(float)])),
    "a unit that is missing in a row": Fault(
        "each row must name its 'who', got no name or number in row 6 of train", ("--unit", "who"),
        lambda w: w.edit(lambda t: t.assign(who=[None if i == 5 else f"{PLANTED}{i}" for i in range(len(t))])),
    ),
    "units that are lists": Fault(
        "must name its 'who', got no name or number in row 1 of train", ("--unit", "who"),
        lambda w: w.edit(lambda t: t.assign(who=[[PLANTED]] * len(t))),
    ),
    "fewer units than the batch": Fault(
        "batch-size must be at most", ("--unit", "who"), lambda w: w.edit(lambda t: t.assign(who=t.index % 7))
    ),
}  # fmt: skip

MODEL = {
    "no folder": Fault("must be a folder or a hub id", ("--model", "./nowhere")),
    "no config": Fault("must hold config.json", spoil=lambda w: (w.model / "config.json").unlink()),
    "a config that is no JSON": Fault("must load with stock transformers",
                                      spoil=lambda w: (w.model / "config.json").write_text("{")),
    "an architecture without a row": Fault("the model must be one of", spoil=lambda w: w.edit_json(
        w.model / "config.json", model_type="bloom", architectures=["BloomForCausalLM"])),
    "no weights": Fault("weights must be safetensors", spoil=lambda w: (w.model / "model.safetensors").unlink()),
    "pickled weights": Fault("only pickled weights", spoil=lambda w: (w.model / "model.safetensors").rename(
        w.model / "pytorch_model.bin")),
    "weights cut off": Fault("damaged", spoil=lambda w: cut(w.model / "model.safetensors")),
    "code of its own": Fault("got", spoil=lambda w: w.edit_json(
        w.model / "config.json", model_type="own", auto_map={"AutoModel": "own.Own"})),
    "no tokenizer": Fault("tokenizer", spoil=lambda w: [f.unlink() for f in w.model.glob("*token*")] + [
        f.unlink() for f in w.model.glob("vocab*")]),
    "a tokenizer of more words": Fault("got", spoil=lambda w: w.edit_json(w.model / "config.json", vocab_size=20)),
}  # fmt: skip

STORAGE = {
    "a ledger that is a folder": Fault("ledger", ("--ledger", "data")),
    "a ledger that is text": Fault("ledger", ("--ledger", "text"), lambda w: (w.home / "text").write_text(PLANTED)),
    "a ledger of another program": Fault(
        "must be a dpft ledger", ("--ledger", "other.sqlite"),
        lambda w: sqlite3.connect(w.home / "other.sqlite").execute("CREATE TABLE t (x)").connection.commit(),
    ),
    "a ledger below a file": Fault("writable", ("--ledger", "model/config.json/ledger.sqlite")),
    "a ledger cut off": Fault("ledger", spoil=lambda w: cut(w.ledger)),
    "a ledger of a later version": Fault(
        "upgrade dpft",
        spoil=lambda w: sqlite3.connect(w.ledger).execute("PRAGMA user_version = 99").connection.commit(),
    ),
}  # fmt: skip

RUNS = {
    "resume of nothing": on_run("resume", "must be a folder with run.json", lambda w: None, "nowhere"),
    "resume without its plan": on_run("resume", "got", lambda w: (w.broken / "plan.json").unlink(), "broken"),
    "resume with half a plan": on_run("resume", "got", lambda w: cut(w.broken / "plan.json"), "broken"),
    "resume with less noise": on_run(
        "resume", "as it was reserved", lambda w: w.edit_json(w.broken / "plan.json", noise=0.1), "broken"
    ),
    "resume with more steps": on_run(
        "resume", "as it was reserved", lambda w: w.edit_json(w.broken / "plan.json", steps=99), "broken"
    ),
    "resume with another clip": on_run(
        "resume", "must be of this very run", lambda w: w.edit_json(w.broken / "plan.json", clip=9.0), "broken"
    ),
    "resume with another budget": on_run(
        "resume", "got",
        lambda w: w.edit_json(w.broken / "spec.json", budget={"epsilon": 99.0, "delta": 1e-4}), "broken",
    ),
    "resume as not private": on_run(
        "resume", "got", lambda w: w.edit_json(w.broken / "spec.json", budget=None), "broken"
    ),
    "resume without its ledger": on_run("resume", "resumes with its ledger", lambda w: w.ledger.unlink(), "broken"),
    "resume with a new ledger": on_run(
        "resume", "got",
        lambda w: (w.ledger.unlink(), sqlite3.connect(w.ledger).close()), "broken",
    ),
    "resume of more rows": on_run("resume", "as many examples", rows_more, "broken"),
    "resume without its data": on_run("resume", "--data", lambda w: shutil.rmtree(w.data), "broken"),
    "resume without its model": on_run("resume", "a folder or a hub id", lambda w: shutil.rmtree(w.model), "broken"),
    "resume with another's checkpoint": on_run(
        "resume", "must be of this very run",
        lambda w: shutil.copytree(w.finished / "checkpoints", w.broken / "checkpoints", dirs_exist_ok=True), "broken",
    ),
    "resume with half a checkpoint": on_run(
        "resume", "must be whole", lambda w: cut(w.broken / "checkpoints" / "last.safetensors"), "broken"
    ),
    "a run of a later format": on_run(
        "resume", "format", lambda w: w.edit_json(w.broken / "run.json", format=9), "broken"
    ),
    "evaluate before the end": on_run("evaluate", "must be finished", lambda w: None, "broken"),
    "predict before the end": on_run("predict", "must be finished", lambda w: None, "broken", "--text", "a"),
    "predict with half an adapter": on_run(
        "predict", "must be whole", lambda w: cut(w.finished / "adapter.safetensors"), "finished", "--text", "a"
    ),
    "predict without texts": on_run("predict", "needs texts", lambda w: None, "finished"),
    "predict from bytes": on_run(
        "predict", "UTF-8", lambda w: (w.home / "b").write_bytes(b"\xff\xfe\x00"), "finished", "--file", "b"
    ),
    "evaluate without its data": on_run("evaluate", "--data", lambda w: shutil.rmtree(w.data), "finished"),
    "export before the end": on_run("export", "must be finished", lambda w: None, "broken", "--to", "out"),
    "export over something": on_run("export", "new or empty folder", lambda w: None, "finished", "--to", "data"),
    "export of a forged card": on_run(
        "export", "card must state what its plan says",
        lambda w: w.edit_json(w.finished / "privacy.json", epsilon=0.1), "finished", "--to", "out",
    ),
    "export that stock classes cannot hold": on_run("export", "--with-code", lambda w: None, "finished", "--to", "out"),
}  # fmt: skip

GROUPS = {"parameters": PARAMETERS, "data": DATA, "model": MODEL, "storage": STORAGE, "runs": RUNS}
CASES = [pytest.param(fault, id=f"{group}: {name}") for group, of in GROUPS.items() for name, fault in of.items()]


def test_the_battery_has_at_least_sixty_faults() -> None:
    assert len(CASES) >= 60


@pytest.mark.parametrize("fault", CASES)
def test_a_fault_is_one_line_that_spends_nothing_and_shows_nobody(world: World, fault: Fault) -> None:
    fault.spoil(world)
    words = [world.home / "runs" / w if w in ("finished", "broken") else w for w in fault.words]
    call = world.train if fault.verb == "train" else functools.partial(world.call, fault.verb)
    world.assert_refused(fault.said, lambda: call(*words))
    assert not (world.home / "out").exists()


def test_what_the_battery_breaks_works_when_it_is_whole(world: World) -> None:
    # The battery would prove nothing in a world where everything is refused.
    for verb, run, more in (
        ("evaluate", world.finished, ()), ("predict", world.finished, ("--text", "a good story")),
        ("export", world.finished, ("--to", "out", "--with-code")), ("resume", world.broken, ("--precision", "fp32")),
    ):  # fmt: skip
        code, _, err = world.call(verb, run, *more)
        assert code == 0, (verb, err)
    code, out, err = world.train("--json")
    assert code == 0, err
    assert json.loads(out)["private"] is True
