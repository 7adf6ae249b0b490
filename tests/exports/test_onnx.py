"""ONNX graphs run by onnxruntime, with the run's own logits."""

from __future__ import annotations

import builtins
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra `onnx`; pip install 'dpft[onnx]'")
pytest.importorskip("onnxscript", reason="needs the extra `onnx`; pip install 'dpft[onnx]'")
pytest.importorskip("onnxruntime", reason="needs the extra `onnx`; pip install 'dpft[onnx]'")

from dpft import Machine, Spec, UserError, train
from dpft.exports import verify
from dpft.exports.formats import onnx as graphs
from dpft.exports.source import ExportSource

FP32 = Machine(device="cpu", precision="fp32")
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
def source(glue_folder, tmp_path: Path):
    """A factory of finished runs, not private, for speed."""

    def make(model: Path, method: str, options: dict[str, str], task: str, representation: str) -> ExportSource:
        spec = Spec(
            task=f"glue/{task}", data=str(glue_folder(task, 80, 20)), model=str(model), method=method, options=options,
            representation=representation, batch_size=40, epochs=1, learning_rate=3e-2, max_length=24,
        )  # fmt: skip
        return ExportSource.open(train(spec, runs=tmp_path / "runs", machine=FP32).path)

    return make


CASES = [
    ("bert", "slash", {"dim": "12"}, "sst2", "mask"),
    ("roberta", "slash", {"dim": "12"}, "rte", "mask"),
    ("roberta", "lora", {}, "stsb", "mean"),
    ("bert", "warp", {"tokens": "3"}, "rte", "mask"),
    ("roberta", "jr_warp", {"tokens": "2", "dim": "12"}, "sst2", "mean"),
    ("bert", "adapter", {}, "sst2", "cls"),
]


def test_a_graph_names_no_file_of_the_machine_it_was_made_on(tiny_bert: Path, source, tmp_path: Path) -> None:
    # Catches the exporter's stack traces: they hold the user's home folder.
    graphs.write(source(tiny_bert, "slash", {"dim": "12"}, "sst2", "mask"), tmp_path)
    content = (tmp_path / "model.onnx").read_bytes()
    for trace in (b'File "', b"site-packages", b"stack_trace", str(Path(graphs.__file__).parent).encode()):
        assert trace not in content


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
    rows = verify.texts(found.trained.paired)
    code = "\n".join(lines).replace("DIR", str(folder))
    for shown, own in (('["a text", "another"]', "texts"), ('["a text"], ["its partner"]', "texts, pairs")):
        code = code.replace(shown, own)
    space = {"texts": list(rows.texts), "pairs": rows.pairs and list(rows.pairs)}
    exec(code, space)
    wanted = found.trained.logits(rows)
    assert np.ptp(wanted, axis=0).max() > 0
    assert verify.distance(wanted, space["logits"], found) <= 1e-4
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
