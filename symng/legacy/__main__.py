"""``python -m symng.legacy SCRIPT [ARGS]``: run a script that imports Theano."""

from __future__ import annotations

import sys

from symng.legacy import run_script

USAGE = """usage: python -m symng.legacy SCRIPT [ARGS]

Run a script that imports Theano, on PyTensor. A script of Python 2 has to be converted first:
2to3 -w SCRIPT. THEANO_FLAGS=floatX=float32 works as it did."""


def main(arguments: list[str]) -> int:
    """Run the script that is the first argument, and return the exit status."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if arguments else 2
    run_script(arguments[0], arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
