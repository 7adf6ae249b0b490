"""Check that the built wheel and sdist hold exactly the modules of the tree, and the page of reports.

An unlisted subpackage silently drops out of a wheel, and a stale build folder ships deleted modules.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

FOLDERS = {"dpft": "dpft", "cli": "dpft/cli", "reports": "dpft/reports", "benchmarks": "dpft/benchmarks"}


def tree() -> set[str]:
    """Every module of the tree, and what the page is made of, by the name each has in a wheel."""
    found = {"dpft/py.typed"}
    for folder, package in FOLDERS.items():
        for file in (*Path(folder).rglob("*.py"), *Path(folder).glob("page.*")):
            found.add(f"{package}/{file.relative_to(folder).as_posix()}")
    return found


def main(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    if shipped != tree():
        sys.exit(f"the wheel must hold the tree's modules, got a difference of {sorted(shipped ^ tree())}")
    (sdist,) = dist.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    sources = {f.as_posix() for folder in FOLDERS for f in (*Path(folder).rglob("*.py"), *Path(folder).glob("page.*"))}
    missing = (sources | {"pyproject.toml", "README.md"}) - names
    if missing:
        sys.exit(f"the sdist must hold every source, got none of {sorted(missing)}")
    print(f"{wheel.name} and {sdist.name} hold all {len(shipped)} files")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
