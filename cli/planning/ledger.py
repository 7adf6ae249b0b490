"""dpft ledger: the privacy spent on each population, and its limits."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from dpft.cli import _flags, _show

from dpft.errors import UserError

if TYPE_CHECKING:
    from dpft.privacy.ledger import Ledger

app = typer.Typer(no_args_is_help=True, help="Show the privacy spent on each population, and set limits.")


@app.command()
def show(
    population: Annotated[str | None, typer.Argument(help="Its name or id, or how that begins.")] = None,
    ledger: _flags.Ledger = None,
    as_json: _flags.Json = False,
) -> None:
    """Show the populations, their runs, their total spending, and their limits."""
    from dpft.privacy.ledger.export import report

    with _existing(ledger) as book:
        if book.note:
            _show.say(book.note)
        view = book.view()
        chosen = [view.find(population)] if population else list(view.populations.values())
        found = [report(one) for one in chosen]
        place, head = str(book.place), book.head()
    if as_json:
        _show.print_json({"ledger": place, "head": head, "populations": found})
        return
    print(f"ledger     {place}\nhead       {head}")
    for one in found:
        print()
        _print(one)
    if not found:
        print("no population yet: the first private dpft train creates one")


@app.command()
def limit(
    population: Annotated[str, typer.Argument(help="Its whole name or id.")],
    epsilon: Annotated[
        float | None, typer.Option(help="The most ε of all its runs together.", show_default=False)
    ] = None,
    delta: Annotated[float | None, typer.Option(help="The δ that goes with it.", show_default=False)] = None,
    planned: Annotated[
        bool, typer.Option("--planned", help="All runs are fixed before the first result is seen: less is charged.")
    ] = False,
    new: Annotated[bool, typer.Option("--new", help="Create a population of that name, without data so far.")] = False,
    lift: Annotated[bool, typer.Option("--lift", help="Remove its limit.")] = False,
    ledger: _flags.Ledger = None,
) -> None:
    """Set a limit on the epsilon of all runs on a population together.

    Populations that were joined keep their limits, and all of them apply.
    """
    from dpft.privacy.ledger import Ledger, default_ledger_place
    from dpft.privacy.ledger.export import report

    if lift:
        if new or planned or epsilon is not None or delta is not None:
            raise UserError("a limit is set or lifted, got --lift with more; drop one")
        with _existing(ledger) as book:
            one = book.lift(population)
        print(f"population {one.title}: the limit of {population} is lifted, {len(one.limits)} left")
        return
    if epsilon is None or delta is None:
        raise UserError("a limit is an epsilon and a delta, got one or none; pass --epsilon and --delta, or --lift")
    with Ledger(ledger or default_ledger_place()) as book:
        one = book.limit(population, epsilon=epsilon, delta=delta, planned=planned, new=new)
        found = report(one)["limits"]
        if book.note:
            _show.say(book.note)
    print(f"population {one.title}: at most ε {epsilon:g} at δ {delta!r}, all runs together")
    for held in found:
        _warn_of(held)
    if len(found) > 1:
        print(f"           all {len(found)} limits of the joined populations hold: dpft ledger show {one.id[:6]}")
    if not one.sketches:
        print(f"next       dpft train --population {one.names[0]} …   (that run's data become its own)")


@app.command()
def verify(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Folders whose heads it must hold.")
    ] = None,
    head: Annotated[str | None, typer.Option(help="A head kept elsewhere, which it must hold.")] = None,
    ledger: _flags.Ledger = None,
) -> None:
    """Verify the hash chain and all records; with RUN folders, check that it contains their heads."""
    from dpft.privacy.ledger.export import heads

    kept = [one for run in runs or [] for one in heads(run)]
    with _existing(ledger) as book:
        book.verify(head, *kept)
        print(f"{book.rows()} rows follow from each other; head {book.head()}")
    if head or kept:
        print(f"{len({head, *kept} - {None})} heads kept elsewhere are among them")


@app.command()
def export(
    file: Annotated[Path | None, typer.Argument(help="Where to write. [default: standard output]")] = None,
    ledger: _flags.Ledger = None,
) -> None:
    """Write the chain as JSON lines, which anybody can verify. It contains neither the key nor the sketches."""
    from dpft.privacy.ledger.export import lines

    with _existing(ledger) as book:
        if file is None:
            for line in lines(book):
                print(line)
            return
        try:
            with open(file, "w", encoding="ascii") as out:
                out.writelines(f"{line}\n" for line in lines(book))
        except OSError as error:
            raise UserError(f"the file must be writable, got {error.strerror} at {str(file)!r}; name another") from None


def _existing(place: str | None) -> Ledger:
    from dpft.privacy.ledger import Ledger, default_ledger_place, ledger_exists

    chosen = place or default_ledger_place()
    if not ledger_exists(chosen):
        raise UserError(f"there must be a ledger, got none at {str(chosen)!r}; pass --ledger")
    return Ledger(chosen)


def _warn_of(held: dict[str, Any]) -> None:
    """Print a warning where a limit is exceeded already, or cannot be checked."""
    if held["spent"] is None:
        print(f"warning    the limit of {held['of']} leaves nothing: its runs have no bound together")
    elif held["spent"] > held["epsilon"]:
        print(f"warning    ε {_show.upward(held['spent'])} is spent already by {held['by']}, beyond the limit of "
              f"{held['of']}: nothing more fits")  # fmt: skip


def _print(one: dict[str, Any]) -> None:
    """Print one population for a person."""
    names = f" ({', '.join(one['names'])})" if one["names"] else ""
    print(f"population {one['id']}{names}, since {one['since'][:10]}")
    if one["runs"] and one.get("reason"):
        print(f"spent      no bound: {one['reason']}")
    elif one["runs"]:
        print(f"spent      ε {_show.upward(one['composition']['epsilon'])} at δ {one['delta']:g} by composition; "
              f"assumes that {one['composition']['assumes']}")  # fmt: skip
        print(f"           ε {_show.upward(one['filter']['epsilon'])} at δ {one['delta']:g} by the RDP filter; "
              f"assumes nothing of how runs were chosen")  # fmt: skip
    for limit in one["limits"]:
        held = "composition (planned)" if limit["planned"] else "the RDP filter, a first run by composition"
        whose = f"of {limit['of']}, " if len(one["limits"]) > 1 else ""
        print(f"limit      {whose}ε {limit['epsilon']:g} at δ {limit['delta']:g}, by {held}; "
              f"left about ε {limit['left']:.3g}")  # fmt: skip
        _warn_of(limit)
    for run in one["runs"]:
        state = "settled" if run["settled"] else "open, counts whole"
        print(f"  {run['run'][:32]}  {run['time']}  {run['charged']}/{run['steps']} steps, σ {run['noise']:.4g}, "
              f"q {run['rate']:.4g}, {run['label']}, {state}")  # fmt: skip
