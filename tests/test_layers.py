"""Who may import whom. Each rule is also shown to catch the import it forbids."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"dpft": ROOT / "dpft", "dpft.cli": ROOT / "cli", "dpft.reports": ROOT / "reports",
           "dpft.benchmarks": ROOT / "benchmarks"}  # fmt: skip
ANYTHING_BUT = frozenset({"dpft.cli", "dpft.reports", "dpft.benchmarks"})

# A layer, and the layers of ours that it may import. The longest name that fits a module is its layer.
ALLOWED: dict[str, set[str]] = {
    "dpft.spec": set(),
    "dpft.wording": set(),
    "dpft.memory": set(),
    "dpft.progress": set(),
    "dpft.data": {"dpft.spec"},
    "dpft.objectives": {"dpft.spec", "dpft.data"},
    "dpft.recipe": {"dpft.spec"},
    "dpft.privacy": {"dpft.spec", "dpft.recipe"},
    "dpft.tasks": {"dpft.spec", "dpft.data", "dpft.objectives"},
    "dpft.hardware": {"dpft.spec"},
    "dpft.models": {"dpft.spec", "dpft.data", "dpft.hardware"},
    "dpft.methods": {"dpft.spec", "dpft.data", "dpft.objectives", "dpft.models"},
    "dpft.shelf": {"dpft.spec"},
    "dpft.run": {"dpft.spec", "dpft.privacy"},
    "dpft.averages": {"dpft.spec"},
    "dpft.optimizers": {"dpft.spec", "dpft.recipe", "dpft.privacy"},
    "dpft.drift": {"dpft.spec", "dpft.data", "dpft.methods"},
    "dpft.phases": {"dpft.spec", "dpft.data", "dpft.methods"},
    "dpft.card": {"dpft.spec", "dpft.privacy", "dpft.wording"},
    "dpft.result": {"dpft.spec", "dpft.card"},
    "dpft.charging": {"dpft.spec", "dpft.data", "dpft.privacy", "dpft.tasks"},
    "dpft.overlap": {"dpft.privacy", "dpft.tasks"},
    "dpft.seen": {"dpft.spec", "dpft.data", "dpft.privacy", "dpft.tasks", "dpft.run"},
    "dpft.recovery": {"dpft.spec", "dpft.privacy", "dpft.run", "dpft.charging"},
    "dpft.reports": {"dpft.spec", "dpft.wording"},
}
SEE_SEVERAL = {
    "dpft",
    "dpft.adapt",
    "dpft.audit",
    "dpft.checkpoint",
    "dpft.compare",
    "dpft.evaluate",
    "dpft.exports",
    "dpft.rows",
    "dpft.start",
    "dpft.following",
    "dpft.launch",
    "dpft.preparing",
    "dpft.probe",
    "dpft.trained",
    "dpft.training",
}
TOP = SEE_SEVERAL | {"dpft.__main__", "dpft.cli", "dpft.benchmarks"}
LAYERS = set(ALLOWED) | TOP

# Packages that a layer does without: privacy, objectives and tasks know no models, reports need no torch.
FOREIGN = {
    "dpft.privacy": {"transformers", "datasets", "peft"},
    "dpft.data": {"transformers", "opacus", "peft", "datasets", "pandas"},
    "dpft.objectives": {"transformers", "opacus", "peft", "datasets", "pandas"},
    "dpft.tasks": {"transformers", "opacus", "peft"},
    "dpft.reports": {"torch", "transformers", "opacus", "datasets"},
    "dpft.spec": {"torch", "numpy", "transformers", "scipy", "pandas"},
}
HEAVY = {"torch", "transformers", "opacus", "datasets", "pandas", "numpy", "scipy", "sklearn", "safetensors",
         "sqlalchemy"}  # fmt: skip
LIGHT = {
    "dpft",
    "dpft.cli",
    "dpft.spec",
    "dpft.recipe",
    "dpft.progress",
}  # what the command line may load before it is asked


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in FOLDERS.items():
        for file in folder.rglob("*.py"):
            parts = [p for p in file.relative_to(folder).with_suffix("").parts if p != "__init__"]
            yield ".".join([package, *parts]), file


def layer(module: str) -> str:
    """The longest layer that `module` lies in; the module itself where no layer is known."""
    fits = [name for name in LAYERS if module == name or (module.startswith(name + ".") and name != "dpft")]
    return max(fits, key=len, default=module)


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


def wrong(module: str, tree: ast.Module) -> list[str]:
    """What `module` imports and must not."""
    own, names = layer(module), imports(tree)
    ours = {layer(_module(name)) for name in names if name == "dpft" or name.startswith("dpft.")}
    bad = sorted(ours & {"dpft.cli"}) if own not in ("dpft.cli", "dpft.__main__") else []
    if own in ALLOWED:
        bad += sorted(ours - ALLOWED[own] - {own, "dpft.cli"})
    elif own in SEE_SEVERAL:
        bad += sorted(ours & (ANYTHING_BUT - {"dpft.cli"}))
    bad += sorted(FOREIGN.get(own, set()) & {name.partition(".")[0] for name in names})
    if own == "dpft.cli":
        early = imports(tree, lazy=False)
        bad += sorted(HEAVY & {name.partition(".")[0] for name in early})
        bad += sorted({layer(_module(n)) for n in early if n.startswith("dpft")} - LIGHT)
    return bad


def _module(name: str) -> str:
    """`dpft.spec.Spec` and `dpft.spec` are both the module dpft.spec; `dpft.Spec` is dpft."""
    known = {module for module, _ in modules()} | LAYERS
    while name not in known:
        name = name.rpartition(".")[0]
    return name


FILES = sorted(modules())


@pytest.mark.parametrize(("module", "file"), FILES, ids=[module for module, _ in FILES])
def test_a_module_imports_only_what_its_layer_may(module: str, file: Path) -> None:
    assert wrong(module, ast.parse(file.read_text(encoding="utf-8"))) == []


def test_every_module_lies_in_a_layer() -> None:
    """A new file at the top must say where it stands: add it to ALLOWED or SEE_SEVERAL."""
    assert sorted({module for module, _ in FILES if layer(module) not in LAYERS}) == []


@pytest.mark.parametrize(
    ("module", "line", "caught"),
    [
        ("dpft.spec", "from dpft.data.batch import Batch", "dpft.data"),
        ("dpft.spec", "import torch", "torch"),
        ("dpft.privacy.step", "from dpft.models.heads import Classifier", "dpft.models"),
        ("dpft.privacy.step", "def f():\n    from dpft import tasks", "dpft.tasks"),
        ("dpft.privacy.plan", "import transformers.utils", "transformers"),
        ("dpft.data.encoded", "from dpft.tasks.encode import encode", "dpft.tasks"),
        ("dpft.objectives.tagging", "from dpft.tasks import ner", "dpft.tasks"),
        ("dpft.objectives.tagging", "from dpft.models.heads import Classifier", "dpft.models"),
        ("dpft.tasks.glue", "from dpft.models import tokenizer", "dpft.models"),
        ("dpft.tasks.glue", "from transformers import AutoTokenizer", "transformers"),
        ("dpft.models.load", "from dpft.methods import slash", "dpft.methods"),
        ("dpft.methods.slash", "from dpft.privacy.secret import Secret", "dpft.privacy"),
        ("dpft.methods.slash", "import dpft.training", "dpft.training"),
        ("dpft.training", "from dpft.cli import main", "dpft.cli"),
        ("dpft.trained", "from dpft.reports import page", "dpft.reports"),
        ("dpft.reports.page", "def f():\n    import torch.nn", "torch"),
        ("dpft.reports.page", "from dpft.trained import load", "dpft.trained"),
        ("dpft.cli.train", "from dpft.training import train", "dpft.training"),
        ("dpft.cli.train", "if True:\n    import numpy as np", "numpy"),
        ("dpft.cli.train", "def f():\n    from dpft.training import train", None),
        ("dpft.privacy.plan", "from dpft.privacy.calibrate import calibrate\nfrom dpft.spec import Spec", None),
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
