"""Who may import whom: rooms on floors, no circle, no room too large. Each rule is shown to catch what it forbids."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"dpft": ROOT / "dpft", "dpft.cli": ROOT / "cli", "dpft.reports": ROOT / "reports",
           "dpft.benchmarks": ROOT / "benchmarks"}  # fmt: skip

# From the ground up. A module imports its own room, and rooms on floors below; of `dpft` itself each file is a room.
FLOORS: list[set[str]] = [
    {"dpft.errors", "dpft.progress"},
    {"dpft.spec", "dpft.data"},
    {"dpft.recipe", "dpft.machine", "dpft.objectives", "dpft.tokens"},
    {"dpft.privacy", "dpft.tasks", "dpft.models"},
    {"dpft.runs", "dpft.methods"},
    {"dpft.inference"},
    {"dpft.training", "dpft.exports"},
    {"dpft.compare", "dpft.audit", "dpft.reports", "dpft.generation"},
    {"dpft.benchmarks", "dpft"},
    {"dpft.cli", "dpft.__main__"},
]
# Within a room of several folders, likewise: from the ground up.
INSIDE: dict[str, list[set[str]]] = {
    "dpft.privacy": [
        {"dpft.privacy.randomness", "dpft.privacy.ledger.storage"},
        {"dpft.privacy.accounting"},
        {"dpft.privacy.calibration", "dpft.privacy.ledger"},
        {"dpft.privacy.mechanism"},
    ],
    "dpft.tasks": [{"dpft.tasks.readers", "dpft.tasks.vocabulary"}, {"dpft.tasks"}],
    "dpft.models": [{"dpft.models.architectures"}, {"dpft.models.loading"}],
    "dpft.methods": [{"dpft.methods.peft"}, {"dpft.methods"}],
    "dpft.compare": [{"dpft.compare"}, {"dpft.compare.running"}],
    "dpft.audit": [{"dpft.audit.evidence"}, {"dpft.audit.mechanism"}, {"dpft.audit"}],
    "dpft.reports": [
        {"dpft.reports.reading"}, {"dpft.reports.tables"}, {"dpft.reports.drawing"}, {"dpft.reports"},
    ],
    "dpft.cli": [
        {"dpft.cli._flags", "dpft.cli._show"}, {"dpft.cli.run", "dpft.cli.comparison", "dpft.cli.planning"},
        {"dpft.cli.app"}, {"dpft.cli"},
    ],
    "dpft.benchmarks": [{"dpft.benchmarks"}, {"dpft.benchmarks.recipes"}],
}  # fmt: skip
# Reports read run folders as files: of dpft they need words and the spec.
REPORTS_NEED = {"dpft.errors", "dpft.spec", "dpft.runs.statements"}
# Packages that a room does without: privacy knows no models, data know no models, reports need no torch.
FOREIGN = {
    "dpft.privacy": {"transformers", "datasets", "peft"},
    "dpft.tasks": {"transformers", "opacus", "peft"},
    "dpft.reports": {"torch", "transformers", "opacus", "datasets"},
    "dpft.spec": {"torch", "numpy", "transformers", "scipy", "pandas"},
    "dpft.recipe": {"torch", "numpy", "transformers", "scipy", "pandas"},
}
HEAVY = {"torch", "transformers", "opacus", "datasets", "pandas", "numpy", "scipy", "sklearn", "safetensors",
         "sqlalchemy"}  # fmt: skip
# What the command line may load before it is asked.
LIGHT = {"dpft", "dpft.cli", "dpft.errors", "dpft.spec", "dpft.recipe", "dpft.progress"}
MOST_LOOSE, MOST_FILES, MOST_LINES = 6, 10, 1500


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in FOLDERS.items():
        for file in folder.rglob("*.py"):
            parts = [p for p in file.relative_to(folder).with_suffix("").parts if p != "__init__"]
            yield ".".join([package, *parts]), file


FILES = sorted(modules())
KNOWN = {module for module, _ in FILES}


def lies_in(module: str, rooms: set[str]) -> str:
    """The longest of `rooms` that `module` lies in; the module itself where it lies in none."""
    fits = [name for name in rooms if module == name or (module.startswith(name + ".") and name != "dpft")]
    return max(fits, key=len, default=module)


def floor_of(module: str, floors: list[set[str]]) -> int | None:
    """The floor, from 0, that `module` stands on."""
    room = lies_in(module, set().union(*floors))
    return next((number for number, rooms in enumerate(floors) if room in rooms), None)


def imports(tree: ast.Module, *, lazy: bool = True) -> set[str]:
    """Every module that is imported; without `lazy`, those that loading the file imports."""
    found: set[str] = set()
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or (
            isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        )
        if lazy or not later:
            stack += ast.iter_child_nodes(node)
    return found


def module_of(name: str) -> str:
    """`dpft.spec.Spec` and `dpft.spec` are both the module dpft.spec; `dpft.Spec` is dpft."""
    while name not in KNOWN:
        name = name.rpartition(".")[0]
    return name


def ours(names: set[str]) -> set[str]:
    return {module_of(name) for name in names if name == "dpft" or name.startswith("dpft.")}


def wrong(module: str, tree: ast.Module) -> list[str]:
    """What `module` imports and must not: of ours the modules, of others the packages."""
    names = imports(tree)
    bad = {other for other in ours(names) if not _may(module, other)}
    room = lies_in(module, set().union(*FLOORS))
    packages = {name.partition(".")[0] for name in names}
    if room == "dpft.cli":
        early = imports(tree, lazy=False)
        bad |= HEAVY & {name.partition(".")[0] for name in early}
        bad |= {other for other in ours(early) if lies_in(other, LIGHT) not in LIGHT}
    return sorted(bad | (FOREIGN.get(room, set()) & packages))


def _may(module: str, other: str) -> bool:
    rooms = set().union(*FLOORS)
    own, its = lies_in(module, rooms), lies_in(other, rooms)
    if own == its:
        inside = INSIDE.get(own)
        mine, theirs = (None, None) if inside is None else (floor_of(module, inside), floor_of(other, inside))
        same = inside is not None and lies_in(module, set().union(*inside)) == lies_in(other, set().union(*inside))
        return mine is None or theirs is None or same or theirs < mine
    if own == "dpft.reports" and lies_in(other, REPORTS_NEED) not in REPORTS_NEED:
        return False
    mine, theirs = floor_of(module, FLOORS), floor_of(other, FLOORS)
    assert mine is not None, f"say in FLOORS where {module} stands"
    assert theirs is not None, f"say in FLOORS where {other} stands"
    if own == "dpft.__main__":
        return its in ("dpft.cli", "dpft")
    return theirs < mine or (its == "dpft" and own in ("dpft.cli", "dpft.benchmarks", "dpft.reports"))


@pytest.mark.parametrize(("module", "file"), FILES, ids=[module for module, _ in FILES])
def test_a_module_imports_only_rooms_below_its_own(module: str, file: Path) -> None:
    assert wrong(module, ast.parse(file.read_text(encoding="utf-8"))) == []


def test_every_module_stands_on_a_floor() -> None:
    """A new room must say where it stands: add it to FLOORS."""
    assert [module for module in KNOWN if floor_of(module, FLOORS) is None] == []
    assert len(FLOORS) <= 10


def circles(arrows: Mapping[str, set[str]]) -> set[str]:
    """The nodes from which a way leads back to them."""

    def reached(start: str) -> set[str]:
        found, stack = set(), [start]
        while stack:
            new = arrows.get(stack.pop(), set()) - found
            found |= new
            stack += new
        return found

    return {node for node in arrows if node in reached(node)}


def test_no_files_import_each_other_in_a_circle() -> None:
    arrows = {
        module: ours(imports(ast.parse(file.read_text(encoding="utf-8")))) - {module, "dpft"} for module, file in FILES
    }
    assert circles(arrows) == set()


def test_a_circle_is_caught() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == {"a", "b", "c"}


def test_no_room_is_crowded_and_few_files_lie_loose() -> None:
    rooms: dict[Path, list[Path]] = {}
    for _, file in FILES:
        rooms.setdefault(file.parent, []).append(file)
    loose = rooms.pop(ROOT / "dpft")
    assert len(loose) <= MOST_LOOSE, sorted(file.name for file in loose)
    for room, files in rooms.items():
        told = f"{room.relative_to(ROOT)}: divide it"
        assert sum(file.name != "__init__.py" for file in files) <= MOST_FILES, told
        assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= MOST_LINES, told


@pytest.mark.parametrize(
    ("module", "line", "caught"),
    [
        ("dpft.spec", "from dpft.data.batch import Batch", "dpft.data.batch"),
        ("dpft.spec", "import torch", "torch"),
        ("dpft.privacy.mechanism.step", "from dpft.models.classifier import Classifier", "dpft.models.classifier"),
        ("dpft.privacy.mechanism.step", "def f():\n    from dpft import tasks", "dpft.tasks"),
        ("dpft.privacy.mechanism.plan", "import transformers.utils", "transformers"),
        ("dpft.privacy.accounting.pld", "from dpft.privacy.ledger import Ledger", "dpft.privacy.ledger"),
        ("dpft.tasks.glue", "from dpft.models import tokenizer", "dpft.models"),
        ("dpft.tasks.glue", "from transformers import AutoTokenizer", "transformers"),
        ("dpft.tasks.readers.csv", "from dpft.tasks.glue import load", "dpft.tasks.glue"),
        ("dpft.models.loading", "from dpft.methods import slash", "dpft.methods.slash"),
        ("dpft.methods.slash", "from dpft.inference.build import adapt", "dpft.inference.build"),
        ("dpft.methods.slash", "import dpft.training.train", "dpft.training.train"),
        ("dpft.training.train", "from dpft.cli import main", "dpft.cli"),
        ("dpft.inference.outputs", "from dpft.reports import page", "dpft.reports.page"),
        ("dpft.compare.work", "from dpft.compare.running import work", "dpft.compare.running.work"),
        ("dpft.reports.page", "def f():\n    import torch.nn", "torch"),
        ("dpft.reports.page", "from dpft.inference.trained_model import load", "dpft.inference.trained_model"),
        ("dpft.cli.run.train", "from dpft.training.train import train", "dpft.training.train"),
        ("dpft.cli.run.train", "if True:\n    import numpy as np", "numpy"),
        ("dpft.cli.run.train", "def f():\n    from dpft.training.train import train", None),
        ("dpft.privacy.mechanism.plan", "from dpft.privacy.calibration.calibrate import calibrate", None),
    ],
)
def test_a_forbidden_import_is_caught_and_an_allowed_one_is_not(module: str, line: str, caught: str | None) -> None:
    assert wrong(module, ast.parse(line)) == ([caught] if caught else [])


def test_the_package_list_is_the_tree() -> None:
    """A subpackage that is not listed drops out of the wheel without a word."""
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = {module for module, file in FILES if file.name == "__init__.py"}
    assert set(setuptools["packages"]) == packages
    assert len(setuptools["packages"]) == len(packages)
    for package, folder in setuptools["package-dir"].items():
        assert FOLDERS[package] == ROOT / folder


def test_every_folder_of_modules_is_a_package() -> None:
    """Catches a subfolder without __init__.py: it works from the tree and is missing from the wheel."""
    assert all((file.parent / "__init__.py").is_file() for _, file in FILES)
