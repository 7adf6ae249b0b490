"""Export of a finished run as an ordinary model: one file per format."""

from __future__ import annotations

import contextlib
import importlib
import os
import pkgutil
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpft.errors import UserError
from dpft.exports import formats, text_formats

if TYPE_CHECKING:
    from dpft.exports.source import ExportSource
    from dpft.spec import Spec

__all__ = ["FORMATS", "Exported", "export", "needs_code"]

_FOLDERS = [*formats.__path__, *text_formats.__path__]
FORMATS = tuple(sorted({m.name for m in pkgutil.iter_modules(_FOLDERS) if not m.name.startswith("_")}))


@dataclass(frozen=True)
class Exported:
    """An export: its folder, the names of its files, and lines of Python that use it."""

    path: Path
    format: str
    files: tuple[str, ...]
    usage: tuple[str, ...]


def export(run: str | Path, to: str | Path, format: str = "hf", with_code: bool = False) -> Exported:
    """Export the finished `run` to the new folder `to`.

    `with_code`: format hf may add a modelling file where stock classes cannot express the run. Raises UserError, and
    writes nothing, where the run is unfinished or the format cannot express it.
    """
    target = Path(to)
    _check(target, format, with_code)
    from dpft.exports.source import ExportSource

    source = ExportSource.open(run)
    with _aside(target) as folder:
        usage = _write(source, folder, format, with_code)
        _describe(source, folder, format, usage)
        files = tuple(sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()))
    return Exported(target, format, files, tuple(_placed(line, target) for line in usage))


def needs_code(spec: Spec) -> bool:
    """Whether the format hf needs `with_code` for `spec`: stock classes read the first token and have no adapters.

    No code is for models that write.
    """
    from dpft import methods

    merged = methods.load(spec.method, spec.options).traits.efficient_inference
    return spec.representation in ("mask", "mean") or (spec.representation != "none" and not merged)


def _check(target: Path, format: str, with_code: bool) -> None:
    if format not in FORMATS:
        raise UserError(f"the format must be one of {', '.join(FORMATS)}, got {format!r}; pass --format hf")
    if with_code and format != "hf":
        raise UserError(f"--with-code goes with format hf, got {format}; drop one of them")
    if target.is_file() or target.is_symlink() or (target.is_dir() and any(target.iterdir())):
        raise UserError(f"an export needs a new or empty folder, got {str(target)!r}, which is not; pass another --to")


def _file(source: ExportSource, format: str) -> Any:
    """The module that writes a format of the source's kind.

    Raises UserError for a format of other kinds alone, ModuleNotFoundError where a library is not installed.
    """
    folder = importlib.import_module(f"{__name__}.{source.objective.export.formats}")
    own = sorted(m.name for m in pkgutil.iter_modules(folder.__path__) if not m.name.startswith("_"))
    if format not in own:
        raise UserError(
            f"a {source.objective.wording.model} of this kind is exported as {' or '.join(own)}, got {format!r}; "
            f"pass --format {own[0]}"
        )
    return importlib.import_module(f"{folder.__name__}.{format}")


def _write(source: ExportSource, folder: Path, format: str, with_code: bool) -> list[str]:
    """Write the files of the format. Returns usage lines that name the folder DIR."""
    try:
        write = _file(source, format).write
        lines: list[str] = (partial(write, with_code=True) if with_code else write)(source, folder)
    except ModuleNotFoundError as error:
        if format == "hf" or (error.name or "dpft").partition(".")[0] == "dpft":
            raise
        raise UserError(
            f"format {format} needs the extra `{format}`, got an installation without {error.name}; "
            f"pip install 'dpft[{format}]'"
        ) from None
    return [line.replace(str(folder), "DIR") for line in lines]


def _describe(source: ExportSource, folder: Path, format: str, usage: Sequence[str]) -> None:
    """Write the model card, and a copy of privacy.json."""
    from dpft.exports import model_card

    library = _file(source, format).LIBRARY
    (folder / "README.md").write_text(model_card.readme(source, usage, library), encoding="utf-8")
    shutil.copyfile(source.trained.run.path / "privacy.json", folder / "privacy.json")


def _placed(line: str, target: Path) -> str:
    """`line` with DIR replaced by the folder's path, as a Python string."""
    return re.sub(r'"DIR(/[^"]*)?"', lambda found: repr(f"{target}{found[1] or ''}"), line)


@contextlib.contextmanager
def _aside(target: Path) -> Iterator[Path]:
    """A temporary folder that is renamed to `target` where nothing is raised."""
    target = target.absolute()
    home = next(parent for parent in target.parents if parent.is_dir())
    folder = home / f".{target.name}.{os.getpid()}.tmp"
    try:
        folder.mkdir()
    except OSError as error:
        raise UserError(f"--to must be writable, got {error.strerror} at {str(home)!r}; pass another") from None
    try:
        yield folder
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder, target)
        except OSError as error:
            raise UserError(f"--to must be writable, got {error.strerror} at {str(target)!r}; pass another") from None
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
