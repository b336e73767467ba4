"""The arguments of ``voxconv bench``, and what they set going."""

from __future__ import annotations

import argparse
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TextIO

from voxconv.bench import compare, report
from voxconv.bench.layers import DIRECTIONS
from voxconv.bench.peers import DEFAULT, PEERS
from voxconv.bench.run import run
from voxconv.bench.suites import default, suites
from voxconv.errors import MissingExtra

__all__ = ["add_arguments", "bench", "progress_bar"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; all but ``--json``, which every command has."""

    def names(text: str) -> list[str]:
        return [name for name in text.split(",") if name]

    add = parser.add_argument
    add("suite", nargs="?", help=f"{', '.join(suites())}; default table32, with --direction step networks")
    add("--direction", type=names, default=["forward"], help=f"comma-separated: {', '.join(DIRECTIONS)}; or all")
    add("--backend", type=names, default=["native"], metavar="LIST", help="such as native,native-plain,numba-strict")
    add("--peers", type=names, metavar="LIST", help=f"of {', '.join(PEERS)}, or none; default {', '.join(DEFAULT)}")
    add("--threads", type=int, default=1, help="threads of every contender")
    add("--dtype", choices=("float32", "float64"), default="float32")
    add("--cold", action="store_true", help="every result in fresh memory, page faults included")
    add("--seconds", type=float, default=4.0, help="time of the rounds of a layer, about")
    add("--layers", default="", metavar="TEXT", help="only layers whose name holds this")
    add("--markdown", type=Path, metavar="FILE", help="also write the table as a page, with the figure of --plot")
    add("--also", type=Path, nargs="+", default=[], metavar="FILE", help="saved reports: more sections of that page")
    add("--plot", type=Path, metavar="FILE", help="also draw the roofline and bars against peers")
    add("--save", type=Path, metavar="FILE", help="also write the report as JSON, for --compare")
    add("--compare", type=Path, metavar="FILE", help="an older report: what is slower, given the noise of both")


def bench(options: argparse.Namespace, stream: TextIO = sys.stderr) -> tuple[dict[str, Any], str, int]:
    """Run what the arguments ask for.

    Returns
    -------
    document : dict
        The report; with ``--compare`` also its ``comparison``.
    text : str
    code : int
        1 where the comparison found a regression, else 0.
    """
    for path in (options.save, options.markdown, options.plot):
        if path is not None and not path.parent.is_dir():  # now, not after minutes of measuring
            raise ValueError(f"bench: {path} lies in a folder that does not exist")
    if options.plot is not None and find_spec("matplotlib") is None:
        raise MissingExtra("matplotlib", "bench", "bench --plot")
    old = None if options.compare is None else json.loads(options.compare.read_text())
    others = [json.loads(path.read_text()) for path in options.also]
    directions = list(DIRECTIONS) if options.direction == ["all"] else options.direction
    peers = [] if options.peers == ["none"] else options.peers
    found = run(
        options.suite or default(directions), directions, options.backend, peers, dtype=options.dtype,
        threads=options.threads, warm=not options.cold, seconds=options.seconds, layers=options.layers,
        progress=progress_bar(stream),
    )  # fmt: skip
    if options.save is not None:
        options.save.write_text(json.dumps(found))
    if options.markdown is not None:
        picture = None if options.plot is None else os.path.relpath(options.plot, options.markdown.parent)
        options.markdown.write_text(report.as_markdown([found, *others], picture))
    if options.plot is not None:
        from voxconv.bench.plot import plot

        plot(found, options.plot)
    text, code = report.as_text(found), 0
    if old is not None:
        found["comparison"] = compare.compare(old, found)
        text += "\n" + compare.as_text(found["comparison"])
        code = int(found["comparison"]["regressions"] > 0)
    return found, text, code


def progress_bar(stream: TextIO) -> Any:
    """What to tell (done, total, what) so that a terminal shows it; a stream that is none stays silent."""
    width = 30

    def show(done: int, total: int, what: str) -> None:
        if stream.isatty():
            bar = "#" * (width * done // total)
            end = "" if done < total else "\n"
            stream.write(f"\r\x1b[K[{bar:<{width}}] {done}/{total} {what}{end}")
            stream.flush()

    return show
