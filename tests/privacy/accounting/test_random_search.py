"""The price of a random search is Papernot and Steinke's, and its K is drawn from the distribution that is charged."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.dp_event import RepeatAndSelectDpEvent
from dp_accounting.rdp import RdpAccountant

from dpft.errors import UserError
from dpft.privacy.accounting.random_search import draw_runs, search_rdp
from dpft.privacy.accounting.rdp import ORDERS
from dpft.privacy.accounting.segments import Segment, epsilon_filter
from dpft.privacy.ledger import Ledger, LedgerError, OverLimit, Search
from dpft.privacy.ledger.composition import Spending
from dpft.privacy.ledger.summary import summarize
from dpft.privacy.randomness import Secret

ONE = SelfComposedDpEvent(PoissonSampledDpEvent(0.1, GaussianDpEvent(2.0)), 20)
TEXTS = [f"record {i}" for i in range(50)]


def search(mean: float = 10.0, shape: float = 1.0) -> Search:
    return Search("s", 0.1, 2.0, 20, mean, shape)


@pytest.mark.parametrize("shape", [0.0, 0.5, 1.0, 3.0, math.inf])
@pytest.mark.parametrize("mean", [1.5, 10.0])
def test_a_search_is_charged_as_dp_accounting_charges_it_and_no_less(mean: float, shape: float) -> None:
    accountant = RdpAccountant(ORDERS)
    accountant.compose(RepeatAndSelectDpEvent(ONE, mean, shape))
    sound = np.isfinite(accountant.rdp) & (accountant.rdp > 0)
    ours = search_rdp(search(mean, shape), ORDERS)
    assert sound.sum() > 10
    assert (ours[sound] >= accountant.rdp[sound]).all()
    assert ours[sound] == pytest.approx(accountant.rdp[sound], rel=1e-6)


@pytest.mark.parametrize(("mean", "shape"), [(10.0, 1.0), (4.0, 0.0)])
def test_a_search_costs_what_theorem_2_says(mean: float, shape: float) -> None:
    """By hand: eps + (1 + eta)((1 - 1/l) eps_l + log(1/gamma)/l) + log(mean)/(a - 1), with gamma solved for here."""
    accountant = RdpAccountant(ORDERS)
    accountant.compose(ONE)
    grid = np.geomspace(1e-12, 1 - 1e-9, 2_000_001)
    means = (1 / grid - 1) / (1 if shape == 1 else -np.log(grid))
    means = means + 1 if shape == 1 else means
    gamma = float(np.interp(-mean, -means, grid))
    orders = np.asarray(ORDERS)
    constant = (1 + shape) * np.min((1 - 1 / orders) * accountant.rdp + math.log(1 / gamma) / orders)
    with np.errstate(divide="ignore"):
        by_hand = accountant.rdp + constant + np.where(orders > 1, math.log(mean) / (orders - 1), np.inf)
    ours = search_rdp(search(mean, shape), ORDERS)
    sound = orders > 1
    assert (ours[sound] <= by_hand[sound] * (1 + 1e-5)).all()
    best = int(np.argmin(by_hand))
    assert ours[best] == pytest.approx(by_hand[best], rel=1e-4)
    assert search_rdp(search(mean, shape), [ORDERS[best]])[0] == ours[best]


def test_a_search_costs_more_than_one_run_and_less_than_its_runs_shown_one_by_one() -> None:
    one = Spending().plus(search(1.0, 1.0), "example").filter(1e-5)
    ten = Spending().plus(search(10.0, 1.0), "example").filter(1e-5)
    assert epsilon_filter([Segment(2.0, 0.1, 20)], 1e-5) < one < ten
    assert ten < epsilon_filter([Segment(2.0, 0.1, 20 * 100)], 1e-5)


@pytest.mark.parametrize(("mean", "shape"), [(1.0, 1.0), (5.0, 1.0), (3.0, 0.0), (4.0, 2.5), (6.0, math.inf)])
def test_the_number_of_runs_is_drawn_from_what_is_charged(mean: float, shape: float) -> None:
    """Oracles: the mean; and the ratio of the first two probabilities. Catches: gamma for 1 - gamma; K from 0 for 1."""
    drawn, secret = 20_000, Secret()
    counts = Counter(draw_runs(mean, shape, secret) for _ in range(drawn))
    found = sum(k * n for k, n in counts.items()) / drawn
    spread = math.sqrt(sum((k - found) ** 2 * n for k, n in counts.items()) / drawn)
    assert abs(found - mean) <= 6 * spread / math.sqrt(drawn) + 1e-9
    assert min(counts) == (0 if math.isinf(shape) else 1)
    if mean > 1:
        first, second = counts[min(counts)], counts[min(counts) + 1]
        if math.isinf(shape):
            ratio = mean
        elif shape == 1:
            ratio = 1 - 1 / mean
        else:
            return
        assert abs(second - ratio * first) <= 6 * math.sqrt(second + ratio**2 * first)


@pytest.mark.parametrize(
    ("mean", "shape"), [(0.5, 1.0), (math.nan, 1.0), (math.inf, 0.0), (3.0, -1.0), (3.0, math.nan)]
)
def test_a_search_out_of_range_is_refused(tmp_path: Path, mean: float, shape: float) -> None:
    with pytest.raises(UserError):
        draw_runs(mean, shape, Secret())
    with Ledger(tmp_path / "l.sqlite") as book, pytest.raises(LedgerError):
        book.reserve_search("s", rate=0.1, noise=2.0, steps=20, mean=mean, shape=shape)


@pytest.mark.parametrize("shape", [1.0, math.inf])
def test_the_ledger_counts_a_search_whole_and_with_the_runs_beside_it(tmp_path: Path, shape: float) -> None:
    with Ledger(tmp_path / "ledger.sqlite") as book:
        terms = {"rate": 0.1, "noise": 2.0, "steps": 20}
        book.reserve_search("s", **terms, mean=10, shape=shape, data_identity=book.data_identity(TEXTS))
        (one,) = book.view().populations.values()
        alone = summarize(one, 1e-5)
        assert alone.composition is not None
        assert (alone.runs, alone.accountant.endswith("(RDP)")) == (1, True)
        book.reserve("a", **terms, delta=1e-5, epsilon=2.0, data_identity=book.data_identity(TEXTS))
        (one,) = book.view().populations.values()
        both = summarize(one, 1e-5)
        assert both.composition is not None
        assert both.filter is not None
        assert alone.composition < both.composition < both.filter
        book.limit(one.id, epsilon=both.filter * 1.001, delta=1e-5)
        with pytest.raises(OverLimit):
            book.reserve_search("t", **terms, mean=10, shape=shape, data_identity=book.data_identity(TEXTS))
        with pytest.raises(LedgerError, match="a run reserves once"):
            book.reserve_search("s", **terms, mean=10, shape=shape)
        book.verify()
