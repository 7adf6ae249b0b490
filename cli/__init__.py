"""The command line: parse, call, print. A mistake of the caller's is one line and exit code 2."""

from __future__ import annotations

import os
import sys

from dpft.errors import UserError


def main() -> None:
    """The `dpft` command."""
    from dpft.cli.app import app

    from dpft.machine.launch import is_silent

    try:
        code = app(standalone_mode=False)
    except UserError as error:
        _stop(str(error), 2, is_silent(error))
    except (KeyboardInterrupt, EOFError):
        _stop("stopped", 130, is_silent())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's usage errors, whichever click they come from
            _stop(f"{error.format_message()} Try dpft --help.", 2, is_silent())
        if type(error).__name__ == "Abort":
            _stop("stopped", 130, is_silent())
        if os.environ.get("DPFT_DEBUG"):
            raise
        # A message or traceback could quote a row: only its type is shown.
        _stop(f"unexpected {type(error).__name__}; set DPFT_DEBUG=1 to see where (its text may quote your data)", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _stop(line: str, code: int, silent: bool = False) -> None:
    """`silent`: where another process of the same training says it."""
    if not silent:
        print(f"dpft: {' '.join(line.split())}", file=sys.stderr)
    sys.exit(code)
