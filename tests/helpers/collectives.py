"""Read off a program that XLA compiled for several devices what they exchange and share out."""

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
            for other in _called(line) + _branches(line):
                if other in bodies:
                    visit(other, depth + is_loop)

    visit(entry, 0)
    return found


def count_in_branches(text: str, target: str) -> tuple[int, int]:
    """Return how many calls of a library's function are in branches, and how many in all.

    The name of the function holds ``target``. Devices may take different branches.
    """
    bodies = dict(_computations(text))
    reached: set[str] = set()
    waiting = [name for lines in bodies.values() for line in lines for name in _branches(line)]
    while waiting:
        name = waiting.pop()
        if name in bodies and name not in reached:
            reached.add(name)
            waiting += [other for line in bodies[name] for other in _called(line)]
    call = re.compile(f'custom_call_target="[^"]*{target}')
    counts = {name: sum(map(bool, map(call.search, lines))) for name, lines in bodies.items()}
    return sum(counts[name] for name in reached), sum(counts.values())


def _called(line: str) -> list[str]:
    """Return the names of the computations that a line calls, but for branches."""
    return re.findall(rf"(?:{CALLS})=%?([\w.\-]+)", line)


def _branches(line: str) -> list[str]:
    """Return the names of the branches between which a line chooses."""
    found = re.findall(r"branch_computations={(.*?)}", line)
    return [name for names in found for name in re.findall(r"[\w.\-]+", names)]


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
