"""dpft methods: what can be trained, and with which options."""

from __future__ import annotations

from typing import Annotated

import typer
from dpft.cli import _flags, _show


def methods(
    name: Annotated[str | None, typer.Argument(help="One method, with its options.", show_default=False)] = None,
    as_json: _flags.Json = False,
) -> None:
    """List the methods; with a NAME, its options and their defaults."""
    from dpft import methods as known

    about = [known.describe(one) for one in ([name] if name else known.names())]
    if as_json:
        _show.print_json(about[0] if name else about)
        return
    for method in about:
        print(f"{method['name']:<10}{method['summary']}")
        if name:
            print()
            print(method["details"])
            print()
            for option, default in method["options"].items():
                print(f"  --option {option}={default}")
    if not name:
        print("\nnext: dpft methods NAME")
