"""Flags shared by several commands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from dpft.errors import UserError
from dpft.spec import Machine, Spec

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
RunArgument = Annotated[Path, typer.Argument(help="The run's folder.", metavar="RUN", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Data = Annotated[
    str | None,
    typer.Option(help="Folder with the task's files; without --task: a file, folder or hub id of your own."),
]
Text = Annotated[str | None, typer.Option(help="Of your own data: the column of texts.", metavar="COLUMN")]
Pair = Annotated[str | None, typer.Option(help="The column of second texts, for pairs.", metavar="COLUMN")]
Prompt = Annotated[
    str | None, typer.Option(help="Of texts to write: the column of what goes before them.", metavar="COLUMN")
]
Messages = Annotated[
    str | None, typer.Option(help="Of chats to write: the column of lists of role and content.", metavar="COLUMN")
]
Label = Annotated[
    str | None,
    typer.Option(
        help="The column of labels or scores; a,b,c: one of 0 and 1 for each label; of texts to write: the column of "
        "labels that go before them.",
        metavar="COLUMN",
    ),
]
Validation = Annotated[str | None, typer.Option(help="The validation set.", metavar="FILE")]
Kind = Annotated[str | None, typer.Option(help="classification, regression or multi-label. [default: detected]")]
Labels = Annotated[
    str | None, typer.Option(help="All label names: a,b,c. They are public. [default: read from the data]")
]
ClassWeights = Annotated[
    str | None,
    typer.Option(
        metavar="NAME=W,…",
        help="Cost of a mistake on each class: a=1,b=20; or balanced: 1 / its share. [default: equal costs]",
    ),
]
Shares = Annotated[
    str | None, typer.Option(metavar="NAME=S,…", help="The classes' public shares, for balanced: a=0.95,b=0.05.")
]
TokenLoss = Annotated[
    str | None,
    typer.Option(help=f"A written text's loss: the mean or the sum over its tokens. [default: {Spec.token_loss}]"),
]
MaxWindows = Annotated[
    int | None,
    typer.Option(help=f"Most windows of --max-length that a written text is cut into. [default: {Spec.max_windows}]"),
]
Ledger = Annotated[
    str | None,
    typer.Option(
        metavar="PATH_OR_URL",
        help="The privacy ledger: a file, or postgresql+psycopg://USER@HOST/DATABASE (its password in PGPASSWORD or "
        "~/.pgpass). [default: $DPFT_LEDGER or the user's data folder]",
    ),
]
Population = Annotated[str | None, typer.Option(metavar="NAME", help="Whose data these are. See dpft ledger.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask before the first cell.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Plan and measure, run nothing, write nothing.")]
Device = Annotated[str, typer.Option(help="A torch device, or auto: CUDA where there is one.")]
Precision = Annotated[str, typer.Option(help="The frozen encoder's: auto, fp32 or bf16. auto tries which is faster.")]
Tokens = Annotated[
    int | None,
    typer.Option(
        "--tokens-per-microbatch",
        help="Rows times longest row of a micro-batch: lower it if memory runs out. Changes no result.",
        show_default="2048 on a CPU, 65536 on a GPU",
    ),
]
Executor = Annotated[
    str, typer.Option(help="Where cells run: local, one by one here; ray, on a running Ray cluster (extra ray).")
]
RayAddress = Annotated[
    str | None,
    typer.Option(metavar="HOST:PORT", help="Of the cluster's head. [default: $RAY_ADDRESS, or the one found here]"),
]
CpusPerCell = Annotated[int | None, typer.Option(help="Cores of a cell on the cluster. [default: 1]")]


def executor(name: str, address: str | None, cpus: int | None) -> Any:
    """The executor by name; None for this process. Raises UserError for an invalid combination."""
    if name not in ("local", "ray"):
        raise UserError(f"--executor must be local or ray, got {name!r}; pass --executor ray")
    if name == "local":
        if address is not None or cpus is not None:
            raise UserError("--ray-address and --cpus-per-cell go with ray, got executor local; pass --executor ray")
        return None
    from dpft.compare.running.ray_executor import RayExecutor

    return RayExecutor(address or "auto", 1 if cpus is None else cpus)


def machine(device: str, precision: str, tokens: int | None) -> Machine:
    """The Machine that the flags describe."""
    values: dict[str, Any] = {"device": device, "precision": precision, "tokens_per_microbatch": tokens}
    return Machine(**values)


def names(listed: str | None) -> tuple[str, ...] | None:
    """ "a, b" as ("a", "b")."""
    return None if listed is None else tuple(name.strip() for name in listed.split(","))


def numbers(listed: str | None, flag: str) -> dict[str, float] | None:
    """ "a=1,b=20" as {"a": 1.0, "b": 20.0}. Raises UserError on anything else."""
    if listed is None:
        return None
    found: dict[str, float] = {}
    for part in listed.split(","):
        name, _, number = part.rpartition("=")
        try:
            found[name.strip()] = float(number)
        except ValueError:
            name = ""
        if not name.strip():
            raise UserError(f"{flag} must be NAME=NUMBER, joined by commas, got {listed!r}; pass {flag} a=1,b=20")
    return found


def seconds(text: str | None) -> float | None:
    """ "90s", "20m" or "2h" in seconds; a number alone is minutes. Raises UserError on anything else."""
    if text is None:
        return None
    number, unit = (text[:-1], text[-1]) if text[-1:] in _SECONDS else (text, "m")
    try:
        value = float(number) * _SECONDS[unit]
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(f"--time must be a time above 0, as 90s, 20m or 2h, got {text!r}; pass --time 20m")
    return value


def weights(listed: str | None) -> dict[str, float] | str | None:
    """The class weights of a flag: "balanced", or a number for each class."""
    return listed if listed == "balanced" else numbers(listed, "--class-weights")


def options(pairs: list[str] | None) -> dict[str, str]:
    """Parse KEY=VALUE strings to a dict. Raises UserError on anything else."""
    found: dict[str, str] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"an option must be KEY=VALUE, got {pair!r}; pass --option dim=1024")
        found[key.strip()] = value.strip()
    return found
