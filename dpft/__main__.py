"""`python -m dpft`, which torchrun starts as `torchrun -m dpft`."""

from __future__ import annotations

from dpft.cli import main

if __name__ == "__main__":
    main()
