"""Read the collectives off a program that XLA compiled for several devices."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

KINDS = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
CALLS = r"body|condition|calls|to_apply|\w+_computation"
ITEMSIZE = {"f64": 8, "f32": 4, "s64": 8, "u64": 8, "s32": 4, "u32": 4, "pred": 1}


class Collective(NamedTuple):
    """What devices exchange at one place of a program.

    ``sizes`` are the numbers of elements of its arrays, ``bytes`` those of all together, and
    ``depth`` the number of loops that it is in.
    """

    kind: str
    sizes: tuple[int, ...]
    bytes: int
    depth: int


def read_collectives(text: str) -> list[Collective]:
    """Return the collectives of a program, given as the text of its optimized HLO."""
    bodies = dict(_computations(text))
    entry = next(name for name in bodies if re.search(rf"^ENTRY %?{re.escape(name)} ", text, re.M))
    found: list[Collective] = []

    def visit(name: str, depth: int) -> None:
        for line in bodies[name]:
            if match := re.search(rf"= (.*?) ({KINDS})(-start)?\(", line):
                sizes, count = _sizes(match[1])
                found.append(Collective(match[2], sizes, count, depth))
            is_loop = " while(" in line
            called = re.findall(rf"(?:{CALLS})=%?([\w.\-]+)", line)
            for branches in re.findall(r"branch_computations={(.*?)}", line):
                called += re.findall(r"[\w.\-]+", branches)
            for other in called:
                if other in bodies:
                    visit(other, depth + is_loop)

    visit(entry, 0)
    return found


def _computations(text: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the lines of each computation of a program."""
    name, lines = "", []
    for line in text.splitlines():
        if match := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            name, lines = match[1], []
        elif line.startswith("}") and name:
            yield name, lines
            name = ""
        else:
            lines.append(line)


def _sizes(shape: str) -> tuple[tuple[int, ...], int]:
    """Return the numbers of elements of the arrays in the type of a result, and their bytes."""
    sizes, total = [], 0
    for kind, lengths in re.findall(r"(\w+)\[([\d,]*)\]", shape):
        size = 1
        for length in lengths.split(","):
            size *= int(length or 1)
        sizes.append(size)
        total += size * ITEMSIZE[kind]
    return tuple(sizes), total
