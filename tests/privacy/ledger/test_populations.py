"""Whose data a run is charged to; what they have spent together; what a limit lets through."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dpft.privacy.accounting.pld import heterogeneous_pld
from dpft.privacy.accounting.rdp import heterogeneous_rdp
from dpft.privacy.accounting.segments import Segment, epsilon_filter
from dpft.privacy.ledger import Event, Ledger, LedgerError, Limit, OverLimit, Reservation
from dpft.privacy.ledger.composition import Spending
from dpft.privacy.ledger.export import report
from dpft.privacy.ledger.populations import UNKNOWN, Population
from dpft.privacy.ledger.summary import summarize
from dpft.privacy.mechanism.plan import make_plan
from dpft.spec import Budget, Spec

TERMS: dict[str, Any] = {"rate": 0.1, "noise": 0.9, "steps": 10, "delta": 1e-5, "epsilon": 5.0}
TEXTS = [f"record number {i}" for i in range(400)]
OTHERS = [f"another one {i}" for i in range(400)]


def epsilon_of(segments: list[Segment], delta: float) -> float:
    """The bound of `quick_bounds`: RDP's alone."""
    return heterogeneous_rdp([(s.noise, s.rate, s.steps) for s in segments], delta)


@pytest.fixture
def book(place: str) -> Iterator[Ledger]:
    with Ledger(place) as opened:
        yield opened


def reserve(book: Ledger, run: str, texts: list[str], name: str | None = None, **terms: Any) -> None:
    book.reserve(run, **{**TERMS, **terms}, data_identity=book.data_identity(texts, None, name))


def populations(book: Ledger) -> list[tuple[str, ...]]:
    return [tuple(run.terms.run for run in one.runs) for one in book.view().populations.values()]


def kinds(book: Ledger) -> list[str]:
    return [json.loads(body)["kind"] for (body,) in book.store.all(_bodies())]


def _bodies() -> Any:
    from sqlalchemy import select

    from dpft.privacy.ledger.storage.database import entry

    return select(entry.c.body).order_by(entry.c.seq)


def test_data_known_again_are_charged_to_their_population_and_strangers_to_their_own(book: Ledger) -> None:
    reserve(book, "a", TEXTS)
    reserve(book, "b", OTHERS)
    reserve(book, "c", Random(0).sample(TEXTS, 30))
    reserve(book, "d", [*TEXTS, "one more"])
    assert populations(book) == [("a", "c", "d"), ("b",)]
    assert kinds(book) == ["population", "reserve", "population", "reserve", "reserve", "sketch", "reserve"]
    book.verify()


def test_ids_are_random_and_no_text_is_in_the_chain(book: Ledger, tmp_path: Path) -> None:
    reserve(book, "a", TEXTS)
    (first,) = book.view().populations
    with Ledger(tmp_path / "other.sqlite") as other:
        reserve(other, "a", TEXTS)
        (second,) = other.view().populations
        assert first != second
        assert other.view().of(second).sketches != book.view().of(first).sketches, "the same key twice"
    assert not any("record" in body for (body,) in book.store.all(_bodies()))


def test_data_of_several_populations_join_them_for_good(book: Ledger) -> None:
    """Catches: a join that forgets a limit, or runs that go on under the old id."""
    reserve(book, "a", TEXTS)
    reserve(book, "b", OTHERS)
    first, second = book.view().populations
    book.limit(second, epsilon=1000, delta=1e-5)
    reserve(book, "c", TEXTS[:200] + OTHERS[:200])
    reserve(book, "d", OTHERS)
    assert populations(book) == [("a", "b", "c", "d")]
    view = book.view()
    assert view.find(second).id == view.find(first).id == view.of(second).id == first
    assert view.of(first).limits == [Limit(1000, 1e-5)]
    book.limit(first, epsilon=900, delta=1e-5)
    assert sorted(limit.epsilon for limit in book.view().of(second).limits) == [900, 1000]
    book.verify()


def test_a_name_binds_texts_that_no_sketch_would_know(book: Ledger) -> None:
    """The same people in other texts; and a limit set before the first run."""
    book.limit("patients", epsilon=1000, delta=1e-5, new=True)
    reserve(book, "a", TEXTS, "patients")
    reserve(book, "b", OTHERS, "patients")
    reserve(book, "c", OTHERS)
    reserve(book, "d", [f"third {i}" for i in range(100)], "staff")
    assert populations(book) == [("a", "b", "c"), ("d",)]
    assert book.view().find("pat").names == ["patients"]
    reserve(book, "e", TEXTS, "staff")
    (one,) = book.view().populations.values()
    assert one.names == ["patients", "staff"]
    for words, found in (("nobody", "'nobody'"), ("", "''")):
        with pytest.raises(LedgerError, match=f"got {found}"):
            book.view().find(words)


@pytest.mark.parametrize("name", ["", "a\nb", "-x", " x", UNKNOWN])
def test_names_that_would_confuse_are_refused(book: Ledger, name: str) -> None:
    with pytest.raises(LedgerError, match="name must"):
        book.data_identity(TEXTS, None, name)


def test_runs_of_no_population_are_unknown(book: Ledger) -> None:
    book.reserve("a", **TERMS)
    reserve(book, "b", TEXTS)
    assert next(iter(book.view().populations)) == UNKNOWN
    assert populations(book) == [("a",), ("b",)]


def test_reserved_steps_count_until_the_run_is_settled(book: Ledger) -> None:
    """Catches: a killed run that counts only what it has charged, and then resumes."""
    reserve(book, "a", TEXTS)
    reserve(book, "b", TEXTS, noise=0.8)
    (one,) = book.view().populations.values()
    assert Spending.of(one).releases == ((0.8, 0.1, 10), (0.9, 0.1, 10))
    for step in range(4):
        book.charge(Event("a", step, 0.1, 0.9))
    (one,) = book.view().populations.values()
    assert Spending.of(one).releases == ((0.8, 0.1, 10), (0.9, 0.1, 10))
    book.settle("a")
    book.settle("b")
    (one,) = book.view().populations.values()
    assert Spending.of(one).releases == ((0.9, 0.1, 4),)


def test_both_bounds_are_the_accountants_over_all_runs(book: Ledger) -> None:
    """The oracle is the accountants on the list of segments. Catches: sums of epsilons; a run counted twice."""
    reserve(book, "a", TEXTS)
    reserve(book, "b", TEXTS, noise=0.8, steps=20)
    reserve(book, "c", TEXTS)
    (one,) = book.view().populations.values()
    segments = [Segment(0.9, 0.1, 10), Segment(0.8, 0.1, 20), Segment(0.9, 0.1, 10)]
    found = summarize(one, 1e-5)
    assert found.composition == pytest.approx(epsilon_of(segments, 1e-5), rel=1e-9)
    assert found.filter == pytest.approx(epsilon_filter(segments, 1e-5), rel=1e-12)
    assert found.filter > found.composition
    words = found.to_json()
    assert "planned" in words["composition"]["assumes"]
    assert words["filter"]["assumes"].startswith("none")


def test_the_composition_shown_is_that_of_the_accountants_in_their_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    with Ledger(tmp_path / "ledger.sqlite") as book:
        reserve(book, "a", TEXTS)
        reserve(book, "b", TEXTS, noise=0.8, steps=20)
        (one,) = book.view().populations.values()
    found = summarize(one, 1e-5)
    pld = heterogeneous_pld([(0.8, 0.1, 20), (0.9, 0.1, 10)], 1e-5)
    assert found.composition is not None
    assert found.filter is not None
    assert pld <= found.composition * (1 + 1e-9) < found.filter


def test_a_single_run_has_its_own_label(book: Ledger) -> None:
    reserve(book, "a", TEXTS)
    (one,) = book.view().populations.values()
    assert summarize(one, 1e-5).composition == 5.0
    assert summarize(one, 1e-6).composition == pytest.approx(epsilon_of([Segment(0.9, 0.1, 10)], 1e-6))


def limited(book: Ledger, epsilon: float, planned: bool = False) -> None:
    reserve(book, "first", TEXTS)
    (id,) = book.view().populations
    book.limit(id, epsilon=epsilon, delta=1e-5, planned=planned)


TWO = [Segment(0.9, 0.1, 20)]


@pytest.mark.parametrize("planned", [False, True])
def test_a_limit_is_held_by_the_filter_unless_all_runs_are_planned(book: Ledger, planned: bool) -> None:
    """Catches: the laxer bound where runs may follow results; a comparison the wrong way round."""
    bound = epsilon_of(TWO, 1e-5) if planned else epsilon_filter(TWO, 1e-5)
    limited(book, bound * 0.999, planned)
    rows = book.rows()
    with pytest.raises(OverLimit) as refused:
        reserve(book, "second", TEXTS)
    assert ("composition" in str(refused.value)) is planned
    assert book.rows() == rows
    (id,) = book.view().populations
    book.limit(id, epsilon=bound * 1.01, delta=1e-5, planned=planned)  # a twentieth of delta: 0.5 %
    reserve(book, "second", TEXTS)
    reserve(book, "strangers", OTHERS, steps=10_000)


def test_a_first_run_is_held_to_composition(book: Ledger) -> None:
    """At the run's own delta that is its label, as its plan has proven it; at another, the accountants'."""
    alone = epsilon_of([Segment(0.9, 0.1, 10)], 1e-6)
    assert epsilon_filter([Segment(0.9, 0.1, 10)], 1e-6) > alone * 1.05
    for delta, bound in ((1e-5, TERMS["epsilon"]), (1e-6, alone)):
        book.limit(f"team {delta}", epsilon=bound * 0.999, delta=delta, new=True)
        with pytest.raises(OverLimit):
            reserve(book, f"a {delta}", [f"{delta} {text}" for text in TEXTS], f"team {delta}")
        book.limit(f"team {delta}", epsilon=bound * 1.001, delta=delta)
        reserve(book, f"a {delta}", [f"{delta} {text}" for text in TEXTS], f"team {delta}")


def test_stopping_after_the_first_run_is_paid_for_out_of_delta() -> None:
    """Catches: composition at delta for who stops and the filter at delta for who goes on, which is 2 delta in all.

    The first run alone takes nearly all of the limit at delta, so that a twentieth of delta does not do for it; then
    nothing may follow, however little.
    """
    alone = Spending().plus(Reservation("a", **TERMS), "example")
    limit = Limit(Spending(alone.releases, runs=1).composition(1e-5)[0] * 1.001, 1e-5)
    together = alone.plus(Reservation("b", **{**TERMS, "noise": 1e3, "steps": 1}), "example")
    assert together.bound(limit) >= alone.composition_quickly(5e-7) > limit.epsilon
    assert together.bound(limit) >= together.filter(0.95e-5)


def test_every_limit_of_joined_populations_holds(book: Ledger) -> None:
    book.limit("wide", epsilon=1000, delta=1e-5, new=True)
    reserve(book, "a", TEXTS, "wide")
    book.limit("narrow", epsilon=epsilon_filter(TWO, 1e-5) * 1.01, delta=1e-5, new=True)
    reserve(book, "b", OTHERS, "narrow")
    with pytest.raises(OverLimit, match=r"wide.* \+ .*narrow"):
        reserve(book, "c", TEXTS[:200] + OTHERS[:200])


def test_a_limit_set_again_after_a_join_leaves_the_others_as_they_were(book: Ledger) -> None:
    """Catches: a limit set anew for one of two joined populations that drops the stricter one of the other."""
    for name, texts, epsilon in (("wide", TEXTS, 1000), ("narrow", OTHERS, epsilon_filter(TWO, 1e-5) * 1.01)):
        book.limit(name, epsilon=epsilon, delta=1e-5, new=True)
        reserve(book, name, texts, name)
    book.limit("narrow", epsilon=2000, delta=1e-5)
    reserve(book, "both", TEXTS[:200] + OTHERS[:200])
    strict = epsilon_filter([Segment(0.9, 0.1, 30)], 1e-5) * 1.01
    book.limit("narrow", epsilon=strict, delta=1e-5)
    book.limit("wide", epsilon=3000, delta=1e-5)
    with pytest.raises(OverLimit, match=f"limit of ε {strict:g}"):
        reserve(book, "more", TEXTS)
    (one,) = book.view().populations.values()
    assert {one.title_of(part): limit.epsilon for part, limit in one.limit_of.items()} == {
        "wide": 3000, "narrow": strict,
    }  # fmt: skip
    book.lift("narrow")
    reserve(book, "more", TEXTS)
    assert [limit.epsilon for limit in book.view().of(one.id).limits] == [3000]
    with pytest.raises(LedgerError, match="only a limit that is set can be lifted"):
        book.lift("narrow")
    book.verify()


def test_a_limit_needs_a_name_that_is_known_in_full(book: Ledger) -> None:
    """Catches: a slip that makes a population of its own, and one that loosens another's limit by its beginning."""
    book.limit("europe", epsilon=2.5, delta=1e-5, new=True)
    for slip in ("eu", "europa", "asia"):
        with pytest.raises(LedgerError, match="whole name or id of a population that is known"):
            book.limit(slip, epsilon=1000, delta=1e-5)
    with pytest.raises(LedgerError, match="did you mean 'europe'"):
        book.limit("europa", epsilon=1000, delta=1e-5)
    with pytest.raises(LedgerError, match="must have a new name"):
        book.limit("europe", epsilon=1000, delta=1e-5, new=True)
    (one,) = book.view().populations.values()
    assert one.limits == [Limit(2.5, 1e-5)]


def test_a_limit_holds_no_runs_of_before_there_were_populations(book: Ledger) -> None:
    """Catches: a limit on `unknown`, which no later run is held to."""
    book.reserve("old", **TERMS)
    with pytest.raises(LedgerError, match="runs of data that are known again"):
        book.limit("unknown", epsilon=0.1, delta=1e-5)


def test_runs_that_protect_different_units_are_told_of_before_they_are_reserved(book: Ledger) -> None:
    """Catches: a population left without a bound, told only afterwards and without a reason."""
    reserve(book, "a", TEXTS)
    terms = Reservation("b", **TERMS)
    assert book.check(terms, book.data_identity(TEXTS)) is None
    said = book.check(terms, book.data_identity(TEXTS, unit="author"))
    assert said is not None
    assert "author and example: their losses do not add up" in said
    book.reserve("b", **TERMS, data_identity=book.data_identity(TEXTS, unit="author"))
    (one,) = book.view().populations.values()
    found = report(one)
    assert found["composition"]["epsilon"] is None
    assert found["reason"] == "the runs protect different units: author, example"


def test_what_a_refusal_offers_is_accepted(book: Ledger) -> None:
    """Catches: advice by another bound than the decision's; rounding up; noise that calibration undercuts."""
    spec = Spec(budget=Budget(4.0, 1e-5), batch_size=40, epochs=2)
    plan = make_plan(spec, 400)
    terms = {"rate": plan.rate, "noise": plan.noise, "steps": plan.steps, "epsilon": plan.epsilon_upper}
    reserve(book, "first", TEXTS, **terms)
    (id,) = book.view().populations
    book.limit(id, epsilon=6.6, delta=1e-5)
    with pytest.raises(OverLimit) as refused:
        reserve(book, "second", TEXTS, **terms)
    line = str(refused.value)
    assert re.search(r"must stay within .*ε 6.6 at δ 1e-05, got ε [\d.]+ with this run", line)
    assert re.search(r"of which ε [\d.]+ is spent by 1 run; pass", line)
    offers = re.findall(r"(?:--epochs ([\d.]+) )?--epsilon ([\d.]+)", line)
    assert len(offers) == 2
    view = book.view()
    spent = Spending.of(view.of(id))
    for epochs, epsilon in offers:
        asked = Spec(budget=Budget(float(epsilon), 1e-5), batch_size=40, epochs=float(epochs or 2))
        other = make_plan(asked, 400)
        together = [Segment(n, q, k) for n, q, k in (*spent.releases, (other.noise, other.rate, other.steps))]
        assert 6.6 * 0.9 < epsilon_filter(together, 1e-5) <= 6.6


def test_nothing_fits_where_all_is_spent(book: Ledger) -> None:
    limited(book, 1.0)
    with pytest.raises(OverLimit, match="; nothing more fits"):
        reserve(book, "second", TEXTS)


def test_an_accepted_run_is_decided_anew_when_another_came_between(book: Ledger, place: str) -> None:
    """Catches: a check outside the transaction that is trusted inside it."""
    limited(book, epsilon_filter(TWO, 1e-5) * 1.01)
    data_identity = book.data_identity(TEXTS)
    decide = book._decide

    def slow(*words: Any) -> Any:
        decision = decide(*words)
        with Ledger(place) as other:
            if other.reservation("quick") is None:
                reserve(other, "quick", TEXTS)
        return decision

    book._decide = slow  # type: ignore[method-assign]
    with pytest.raises(OverLimit):
        book.reserve("slow", **TERMS, data_identity=data_identity)
    assert populations(book) == [("first", "quick")]


def test_the_report_has_all_that_is_shown(book: Ledger) -> None:
    limited(book, 20)
    found = report(next(iter(book.view().populations.values())))
    assert found["limits"][0]["left"] == pytest.approx(20 - TERMS["epsilon"])
    (run,) = found["runs"]
    assert (run["run"], run["steps"], run["charged"], run["settled"]) == ("first", 10, 0, False)
    assert report(Population("x"))["composition"] is None


def test_spending_only_grows(book: Ledger) -> None:
    """Catches: a bound that falls as runs are added, under which a refused run would fit after another."""
    found = []
    for index, noise in enumerate((0.9, 2.0, 0.9, 5.0)):
        reserve(book, f"run {index}", TEXTS, noise=noise)
        (one,) = book.view().populations.values()
        found.append(Spending.of(one).filter(1e-5))
    assert all(a < b for a, b in pairwise(found))


def test_runs_that_protect_different_units_have_no_common_bound(book: Ledger) -> None:
    """Catches: a person's noise counted as if it hid one example, or the other way round."""
    reserve(book, "a", TEXTS)
    book.reserve("b", **TERMS, data_identity=book.data_identity(TEXTS, None, None, "author"))
    (one,) = book.view().populations.values()
    found = summarize(one, 1e-5)
    assert (found.runs, found.composition, found.filter) == (2, None, None)
    book.limit(one.id, epsilon=1000, delta=1e-5)
    with pytest.raises(OverLimit, match="must protect the same unit, got author and example; pass the --unit"):
        reserve(book, "c", TEXTS)
