"""The benchmark measures what it says: steps that train, on the rows it counts, with the flops a formula gives."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from dpft.benchmarks import step_cost
from dpft.benchmarks._meter import Cost, flops, interleaved, peak, peak_memory, ratio
from dpft.benchmarks._work import DpftStep, Work

from dpft.errors import UserError
from dpft.spec import Spec

BLOCKS, WIDTH, WIDE, OUTPUTS = 2, 32, 64, 2  # of the tiny BERT on SST-2
CPU = torch.device("cpu")

pytestmark = pytest.mark.filterwarnings("ignore")  # Opacus and PEFT warn once a micro-batch


@pytest.fixture
def work(tiny_bert: Path, glue_folder: Callable[..., Path], tmp_path: Path) -> Work:
    spec = Spec(
        task="glue/sst2",
        data=str(glue_folder("sst2")),
        model=str(tiny_bert),
        batch_size=200,
        representation="mask",
        options={"dim": 40},
    )
    return Work(spec, tmp_path, device="cpu", precision="fp32", peer_rows=100)


@pytest.fixture
def peers() -> None:
    pytest.importorskip("peft", reason="the peers need the extra `bench`")


def needed_flops(rows: int, length: int, dim: int) -> int:
    """Matrix products of a plain SLaSh step on rows of one length, read at one token.

    A dense layer costs 2 in out per token, forward and again for its input's gradient; frozen weights take none.
    """
    dense = 8 * WIDTH**2 + 4 * WIDTH * WIDE  # query, key, value, mixed; widened, final
    attention = 4 * length * WIDTH  # scores and their sum of values
    keys, one = 4 * WIDTH**2, 4 * WIDTH**2 + 4 * WIDTH * WIDE  # last block: key and value; the rest for one token
    whole, last, head = BLOCKS - 1, length * keys + one, 2 * WIDTH * OUTPUTS
    forward = whole * length * (dense + attention) + last + head
    # Nothing flows below the first block's shift; SDPA's backward makes the scores once more: five products for two.
    backward = (whole - 1) * length * (dense + 5 * attention // 2) + last + 2 * head
    return rows * (forward + backward) + 2 * (2 * dim * BLOCKS * WIDTH)


def test_counted_flops_are_those_of_the_formula(work: Work) -> None:
    plain = DpftStep(work, work.hardware, private=False)
    lengths = plain.rows.lengths
    length = int(np.bincount(lengths).argmax())
    drawn = np.flatnonzero(lengths == length)
    assert len(drawn) * length <= work.hardware.tokens, "one micro-batch"
    assert flops(plain, drawn) * len(drawn) == needed_flops(len(drawn), length, dim=40)


def test_padding_and_privacy_cost_flops(work: Work) -> None:
    plain, private = (DpftStep(work, work.hardware, private=p) for p in (False, True))
    order = np.argsort(plain.rows.lengths)
    short, mixed = order[:8], np.append(order[:7], order[-1])
    assert flops(plain, mixed) > flops(plain, short)
    assert flops(private, short) > flops(plain, short)


def test_every_variant_trains_and_counts_its_rows(work: Work, peers: None) -> None:
    variants = {name: step_cost.build(name, work) for name in step_cost.ABOUT}
    drawn = np.arange(0, 400, 2)
    for name, variant in variants.items():
        before = {key: p.detach().clone() for key, p in variant.trained.items()}
        rows = variant(drawn)
        assert rows == len(drawn) if name != step_cost.BY_HAND else 50 < rows < 150
        still = [key for key, p in variant.trained.items() if torch.equal(before[key], p)]
        assert not still, f"{name} left {still}"


def test_peers_learn_by_their_gradients_alone(work: Work, peers: None) -> None:
    from dpft.benchmarks._peers import OpacusByHand, OpacusSorted

    for peer in (OpacusByHand(work, noise=0.0), OpacusSorted(work, noise=0.0)):
        names = [name for name in peer.trained if "lora_B" in name]
        peer(np.arange(200))
        assert len(names) == 2 * BLOCKS
        assert all(bool(peer.trained[name].any()) for name in names), "lora_B starts at zero"
        assert not any(p.requires_grad for name, p in peer.model.named_parameters() if name not in peer.trained)


def test_peer_by_hand_steps_once_a_logical_batch(work: Work, peers: None) -> None:
    """400 rows at an expected 100 a batch: every call is one Poisson draw, however often the loader starts anew."""
    from dpft.benchmarks._peers import OpacusByHand

    peer = OpacusByHand(work, noise=0.0)
    rows = [peer(np.arange(0)) for _ in range(12)]
    assert all(50 < n < 150 for n in rows)
    assert len(set(rows)) > 1
    steps = {int(state["step"]) for state in peer.optimizer.original_optimizer.state.values()}
    assert steps == {12}


def test_a_variant_that_does_not_train_is_refused(work: Work) -> None:
    plain = DpftStep(work, work.hardware, private=False)
    for group in plain.step.optimizer.param_groups:
        group["lr"] = 0.0
    with pytest.raises(RuntimeError, match="must train"):
        interleaved({"plain": plain}, [np.arange(4)] * 2, CPU)


def test_costs_of_a_run_are_whole_and_plain_json(work: Work, peers: None) -> None:
    costs = step_cost.measure(work, ["private", "plain", step_cost.BY_HAND], repeats=2)
    found = json.loads(json.dumps(step_cost.report(work, costs, {"private": 1.0})))
    assert found["rounds"] == 2
    assert found["variants"]["private"]["times_slower_than_first"] == {"median": 1.0, "min": 1.0, "max": 1.0}
    assert [aim["aim"] for aim in found["aims"]] == [1.05, 9.0, 0.8]
    text = step_cost.table(found)
    assert all(name in text for name in costs)
    assert text.count("aim:") == 3


def test_ratios_are_taken_round_by_round_and_aims_know_their_side() -> None:
    ours, plain, peer = (Cost("bf16", 1e9, speeds, [0.25, 0.35]) for speeds in ([90.0, 45.0], [99.0, 45.0], [9.0, 5.0]))
    assert ratio(ours, peer) == [10.0, 9.0]
    aims = step_cost.aims({"private": ours, "plain": plain, step_cost.BY_HAND: peer})
    assert [aim.found for aim in aims] == pytest.approx([1.05, 9.5, 0.30])
    assert all(aim.met for aim in aims)
    assert not dataclasses.replace(aims[0], found=1.06).met
    assert not dataclasses.replace(aims[1], found=8.9).met


def test_peak_and_memory_are_finite_and_positive() -> None:
    assert 0 < peak("fp32", CPU) < float("inf")
    assert 50 < peak_memory(CPU) < 1e6, "MiB of a process that holds torch"


def test_unknown_variant_is_a_users_mistake(work: Work) -> None:
    with pytest.raises(UserError, match="the variant must be one of private, plain"):
        step_cost.build("fastest", work)


@pytest.mark.slow
def test_runs_as_a_module_and_measures_memory_alone(tiny_bert: Path, glue_folder: Callable[..., Path]) -> None:
    flags = [
        "--task",
        "glue/sst2",
        "--data",
        str(glue_folder("sst2")),
        "--model",
        str(tiny_bert),
        "--batch-size",
        "64",
        "--dim",
        "40",
    ]
    command = [sys.executable, "-m", "dpft.benchmarks.step_cost", *flags, "--repeats", "1", "--device", "cpu", "--json"]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert all(row["peak_memory_mib"] > 50 for row in found["variants"].values())
    wrong = subprocess.run([*command, "--variant", "fastest"], check=False, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("step_cost: the variant must be one of")
