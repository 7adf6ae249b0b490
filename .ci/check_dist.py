"""Check that the built wheel and sdist hold exactly the modules of the tree, the page of reports and the recipes.

An unlisted subpackage silently drops out of a wheel, and a stale build folder ships deleted modules.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

DATA = ("*.py", "page.*", "*.toml")
FOLDERS = {"dpft": "dpft", "cli": "dpft/cli", "reports": "dpft/reports", "benchmarks": "dpft/benchmarks"}


def files(folder: str) -> list[Path]:
    """What of `folder` belongs into a distribution; raw results and their grids do not."""
    return [file for pattern in DATA for file in Path(folder).rglob(pattern) if file.parent.name != "results"]


def tree() -> set[str]:
    """Every file of the tree that is shipped, by the name it has in a wheel."""
    found = {"dpft/py.typed"}
    for folder, package in FOLDERS.items():
        found |= {f"{package}/{file.relative_to(folder).as_posix()}" for file in files(folder)}
    return found


def main(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if shipped != tree():
        sys.exit(f"the wheel must hold the tree's modules, got a difference of {sorted(shipped ^ tree())}")
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {file.as_posix() for folder in FOLDERS for file in files(folder)}
    missing = (sources | {"pyproject.toml", "README.md"}) - names
    if missing:
        sys.exit(f"the sdist must hold every source, got none of {sorted(missing)}")
    print(f"{wheel.name} and {sdist.name} hold all {len(shipped)} files")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
