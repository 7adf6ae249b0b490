"""Two processes against one: the same sum, one noise, the same parameters; and faults that these tests catch."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from dpft.machine.team import SINGLE_PROCESS, Ranks
from tests import ranked
from tests.ranked import CLIP, COUNTS, EXPECTED, METHODS, NOISE

Found = dict[str, list[Tensor]]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def both(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Found]:
    """What each of two joined processes found."""
    home = tmp_path_factory.mktemp("ranks")
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "tests.ranked"]
    children = [
        subprocess.Popen(
            [*words, str(rank), "2", str(home / "store"), str(tiny_bert), str(home / f"{rank}.safetensors")],
            cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    errors = [child.communicate(timeout=280)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0], "\n".join(e[-2000:] for e in errors)
    return _read(home / "0.safetensors"), _read(home / "1.safetensors")


@pytest.fixture(scope="module")
def alone(tiny_bert: Path) -> Found:
    """The same on one process."""
    torch.set_num_threads(1)
    return dict(ranked.all_of(SINGLE_PROCESS, str(tiny_bert), None))


def _read(file: Path) -> Found:
    found: Found = {}
    for name, tensor in sorted(load_file(file).items(), key=lambda item: int(item[0].rpartition("/")[2])):
        found.setdefault(name.rpartition("/")[0], []).append(tensor)
    return found


def apart(found: list[Tensor], wanted: list[Tensor]) -> float:
    """The distance, relative to the length of the whole."""
    length = math.sqrt(sum(float(w.double().square().sum()) for w in wanted))
    away = math.sqrt(sum(float((f - w).double().square().sum()) for f, w in zip(found, wanted, strict=True)))
    return away / length if length else away


def times_planned(noise: Tensor) -> float:
    """The deviation of a release of nobody, over the planned one."""
    return noise.std().item() / (NOISE * CLIP / EXPECTED)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize(("dtype", "within"), [("torch.float64", 1e-12), ("torch.float32", 1e-6)])
def test_two_ranks_sum_what_one_process_sums(
    both: tuple[Found, Found], alone: Found, count: int, dtype: str, within: float
) -> None:
    """With unequal parts, with a rank that has no row, with no row at all, and one huge gradient among them."""
    name = f"{dtype} {count}"
    assert apart(both[0][name], alone[name]) <= within
    assert any(t.any() for t in both[0][name]) == (count > 0)


@pytest.mark.parametrize("name", METHODS)
def test_so_they_do_for_every_way_to_the_clipped_sum(both: tuple[Found, Found], alone: Found, name: str) -> None:
    """Hooks, ghost norms, one at a time, units of several rows, RGP's carriers, frozen features."""
    assert apart(both[0][name], alone[name]) <= 1e-9
    assert sum(float(t.abs().sum()) for t in alone[name]) > 0


def test_two_ranks_take_the_step_of_one_that_is_not_private(both: tuple[Found, Found], alone: Found) -> None:
    assert apart(both[0]["plain"], alone["plain"]) <= 1e-12


def test_after_five_noisy_steps_all_ranks_have_the_same_bits(both: tuple[Found, Found], alone: Found) -> None:
    assert all(torch.equal(a, b) for a, b in zip(both[0]["trained"], both[1]["trained"], strict=True))
    assert apart(both[0]["trained"], alone["trained"]) > 1e-3  # of other noise


def test_every_release_is_the_same_on_all_ranks(both: tuple[Found, Found]) -> None:
    for name in ("noise", *METHODS, *(f"torch.float32 {count}" for count in COUNTS)):
        assert all(torch.equal(a, b) for a, b in zip(both[0][name], both[1][name], strict=True)), name


def test_noise_is_drawn_once_for_all_ranks(both: tuple[Found, Found]) -> None:
    (noise,) = both[0]["noise"]
    assert abs(times_planned(noise) - 1) < 5 / math.sqrt(2 * len(noise))


def test_noise_on_each_rank_would_be_seen(both: tuple[Found, Found]) -> None:
    """The test above is red where a second rank adds noise of its own: the variance doubles."""
    (noise,) = both[0]["noise on each rank"]
    assert times_planned(noise) ** 2 == pytest.approx(2, rel=0.15)
    assert abs(times_planned(noise) - 1) > 5 / math.sqrt(2 * len(noise))


@pytest.mark.parametrize("fault", ["clip after the sum", "rows dealt twice"])
def test_faults_of_the_sum_would_be_seen(both: tuple[Found, Found], alone: Found, fault: str) -> None:
    """The first test is red where ranks clip after the all-reduce, and where a rank's rows are dealt to two."""
    assert apart(both[0][fault], alone["torch.float64 23"]) > 0.01


def test_carriers_are_the_first_ranks_where_arithmetic_differs(both: tuple[Found, Found], alone: Found) -> None:
    """A rank whose own carriers have other signs takes the first's. Catches a sum of gradients in two frames."""
    assert apart(both[0]["other arithmetic"], alone["rgp"]) <= 1e-9


class Cut(Ranks):
    """One of several ranks, without the others."""

    def __init__(self, rank: int, size: int, sent: list[bytes]) -> None:
        self.rank, self.size, self.sent = rank, size, sent

    def _spread(self, content: bytes) -> bytes:
        if self.first:
            self.sent.append(content)
        return self.sent[-1]


lengths = st.lists(st.integers(1, 500), max_size=60)


@settings(max_examples=80, deadline=None)
@given(lengths, st.integers(1, 7))
def test_a_batch_is_dealt_to_the_last_row_and_no_row_twice(tokens: list[int], size: int) -> None:
    drawn: NDArray[np.int64] = np.arange(len(tokens)) * 3 + 5
    nobody: NDArray[np.int64] = np.empty(0, np.int64)
    sent: list[bytes] = []
    shares = [Cut(0, size, sent).scatter(drawn, np.array(tokens, np.int64))]
    shares += [Cut(rank, size, sent).scatter(nobody, nobody) for rank in range(1, size)]
    assert sorted(np.concatenate(shares).tolist()) == drawn.tolist()
    held = [sum(tokens[(unit - 5) // 3] for unit in share) for share in shares]
    assert max(held) - min(held) <= max(tokens, default=0)


def test_parts_to_compute_belong_to_one_rank_each() -> None:
    parts = list(range(11))
    shares: Callable[[int], list[int]] = lambda rank: list(Cut(rank, 4, []).own(parts))  # noqa: E731
    assert sorted(part for rank in range(4) for part in shares(rank)) == parts
    assert SINGLE_PROCESS.own(parts) == parts
