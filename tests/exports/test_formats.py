"""Every format goes through the one door: a card, privacy.json, and usage that names the folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import dpft.exports
from dpft.exports import FORMATS, export


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_comes_with_its_card(
    format: str, tiny_bert: Path, finished: Callable[..., Path], tmp_path: Path
) -> None:
    for extra in {"peft": ("peft",), "onnx": ("onnx", "onnxruntime", "onnxscript")}.get(format, ()):
        pytest.importorskip(extra)
    found = export(finished(tiny_bert, method="lora", options={"rank": 2}), tmp_path / "out", format)
    assert {"README.md", "privacy.json"} < set(found.files)
    assert sorted(found.files) == sorted(str(p.relative_to(found.path)) for p in found.path.rglob("*") if p.is_file())
    assert "DIR" not in "\n".join(found.usage)
    assert str(tmp_path / "out") in "\n".join(found.usage)
    # The traces: ONNX's exporter keeps the stack of each node, with the user's home folder in it.
    traces = (b'File "', b"site-packages", b"stack_trace", str(Path(dpft.exports.__file__).parent).encode())
    for path in found.path.rglob("*"):
        content = path.read_bytes()
        assert not [trace for trace in (b".out.", str(tmp_path).encode(), *traces) if trace in content], path.name
