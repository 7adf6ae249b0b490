"""ONNX graphs run by onnxruntime, with the run's own logits."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra `onnx`; pip install 'dpft[onnx]'")
pytest.importorskip("onnxscript", reason="needs the extra `onnx`; pip install 'dpft[onnx]'")
pytest.importorskip("onnxruntime", reason="needs the extra `onnx`; pip install 'dpft[onnx]'")

from dpft import UserError
from dpft.exports import verify
from dpft.exports.formats import onnx as graphs
from tests.exports.conftest import run_usage

pytestmark = pytest.mark.filterwarnings("ignore")


CASES = [
    ("bert", "slash", {"dim": "12"}, "sst2", "mask"),
    ("roberta", "slash", {"dim": "12"}, "rte", "mask"),
    ("roberta", "lora", {}, "stsb", "mean"),
    ("bert", "warp", {"tokens": "3"}, "rte", "mask"),
    ("roberta", "jr_warp", {"tokens": "2", "dim": "12"}, "sst2", "mean"),
    ("bert", "adapter", {}, "sst2", "cls"),
]


@pytest.mark.parametrize(
    ("family", "method", "options", "task", "representation"),
    [*CASES[1:4], *(pytest.param(*case, marks=pytest.mark.slow) for case in (CASES[0], *CASES[4:]))],
)
def test_the_printed_lines_give_the_runs_logits(
    request, source, tmp_path: Path, family: str, method: str, options: dict[str, str], task: str, representation: str
) -> None:
    base: Path = request.getfixturevalue(f"tiny_{family}")
    found, folder = source(base, method, options, task, representation), tmp_path / "out"
    folder.mkdir()
    lines = graphs.write(found, folder)
    logits = run_usage(lines, folder, found)
    wanted = found.trained.logits(verify.texts(found.trained.paired))
    assert np.ptp(wanted, axis=0).max() > 0
    assert verify.distance(wanted, logits, found) <= 1e-4
    assert {p.name for p in folder.iterdir()} >= {"model.onnx", "tokenizer.json"}


def test_a_graph_with_other_logits_is_refused(source, tiny_bert: Path, tmp_path: Path, monkeypatch) -> None:
    found = source(tiny_bert, "slash", {"dim": "12"}, "sst2", "mean")
    monkeypatch.setattr(verify, "distance", lambda *_: float("nan"))
    with pytest.raises(UserError, match="must give the run's logits"):
        graphs.write(found, tmp_path)


def test_without_the_extra_it_says_how_to_get_it(source, tiny_bert: Path, tmp_path: Path, monkeypatch) -> None:
    found, real = source(tiny_bert, "slash", {"dim": "12"}, "sst2", "mean"), builtins.__import__

    def missing(name: str, *args, **kwargs):
        if name == "onnxruntime":
            raise ModuleNotFoundError("No module named 'onnxruntime'", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UserError, match=r"onnxruntime; pip install 'dpft\[onnx\]'"):
        graphs.write(found, tmp_path)
