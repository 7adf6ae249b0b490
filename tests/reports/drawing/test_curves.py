"""The picture of a budget: whole or not there, the same in black and white, and never below the bound."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dpft.reports.drawing import curves
from dpft.reports.drawing.curves import Curves, draw
from matplotlib.figure import Figure
from matplotlib.image import imread

from dpft.errors import UserError

CURVES = Curves(
    spent=[(0.0, 0.0), (10.0, 1.0), (40.0, 2.0), (100.0, 2.9)], needed=[(6.0, 0.6), (2.9, 1.0), (1.0, 2.0)], noise=1.0,
    steps=100, epsilon=3.0, delta=1e-6, rate=0.01,
)  # fmt: skip


def test_both_panels_are_written_without_litter_and_without_colour(tmp_path: Path) -> None:
    draw(CURVES, tmp_path / "new" / "b.png")
    assert [file.name for file in (tmp_path / "new").iterdir()] == ["b.png"]
    pixels = imread(tmp_path / "new" / "b.png")[..., :3]
    assert pixels.shape[1] > 1000
    assert np.ptp(pixels, axis=2).max() < 0.01  # red, green and blue agree: grey
    half = pixels.shape[1] // 2
    assert all((part < 0.3).sum() > 2000 for part in (pixels[:, :half], pixels[:, half:]))


def test_the_axes_say_what_and_in_which_unit_and_no_line_falls_below_a_bound() -> None:
    figure = Figure()
    left, right = figure.subplots(1, 2)
    curves._spent(left, CURVES)
    curves._needed(right, CURVES)
    assert "steps" in left.get_xlabel()
    assert all("no unit" in text for text in (left.get_ylabel(), right.get_xlabel()))
    assert "clip C" in right.get_ylabel()
    assert left.lines[0].get_drawstyle() == "steps-pre"
    assert list(right.lines[0].get_xdata()) == [1.0, 2.9, 6.0]
    assert len({str(line.get_linestyle()) for line in left.lines[:2]}) == 2


def test_a_failed_write_leaves_the_old_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "b.png"
    file.write_text("old")

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"must lie where it can be written, got .*No space left.*pass --plot"):
        draw(CURVES, file)
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["b.pdf", "b", ".png/"])
def test_a_name_that_is_no_png_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"must be named FILE\.png"):
        draw(CURVES, tmp_path / name)


def test_a_place_that_is_a_file_or_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.png").mkdir()
    for place in ("file/b.png", "folder.png"):
        with pytest.raises(UserError, match="must lie where it can be written"):
            draw(CURVES, tmp_path / place)
    assert {entry.name for entry in tmp_path.iterdir()} == {"file", "folder.png"}


def test_drawing_loads_no_torch_and_no_window_system() -> None:
    unwanted = ("torch", "matplotlib.pyplot")
    code = f"import dpft.reports.drawing.curves, sys; print([m for m in {unwanted} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
