"""The command line: ``voxconv doctor | demo | bench | explain | selftest``.

Results go to standard output, as text or (``--json``) as one JSON document; everything else to standard error.
What the user did wrong is a sentence and exit code 2; a failed self-test or a figure that is missed is exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

import voxconv
from voxconv.plan import BACKENDS, PRECISIONS

__all__ = ["main"]

# RuntimeError: a backend or an optional package that was asked for is not there.
USER_ERRORS = (ValueError, TypeError, OverflowError, MemoryError, OSError, RuntimeError)


class _Parser(argparse.ArgumentParser):
    """argparse, but a mistake is answered with one sentence instead of the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see '{self.prog} --help'\n")


def _shape(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no shape; write sizes with an x between them: 1x64x56x56"
        ) from None


def _per_axis(text: str) -> int | tuple[Any, ...]:
    """Read 2, or one number per axis as 2,1, or (padding only) before and after as 0:1,0:1."""
    try:
        values = tuple(tuple(map(int, part.split(":"))) if ":" in part else int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an integer nor one per axis such as 2,1") from None
    return values[0] if len(values) == 1 and isinstance(values[0], int) else values


def _padding(text: str) -> Any:
    return text if text in ("valid", "same", "same_lower") else _per_axis(text)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 1")
    return int(text)


def _doctor(_: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    from voxconv.bench import doctor

    found = doctor.examine()
    return found, doctor.as_text(found), 0 if doctor.passed(found) else 1


def _demo(arguments: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    from voxconv import demo
    from voxconv.plan import choose_backend

    choose_backend("demo", arguments.backend)
    out = arguments.out or Path(f"voxconv-{arguments.task or 'demo'}.png")
    if not out.parent.is_dir():
        raise ValueError(f"demo: --out {out} lies in a folder that does not exist")
    if arguments.task is not None:
        from voxconv.demo import tasks

        if arguments.task == "all":
            if arguments.data is not None:
                raise ValueError("demo: --data goes with a single task; all is about the example scans")
            found = tasks.run_all(out, arguments.seeds)
            return found, tasks.as_table(found), 0 if found["kept"] else 1
        found = tasks.run(arguments.task, out, arguments.data, arguments.seeds)
        return found, tasks.as_text(found), 0
    if arguments.data is not None:
        raise ValueError("demo: --data needs --task, since the demo without one is about its own slice")
    found = demo.run(out, arguments.backend, timings=not arguments.no_timings)
    return found, demo.as_text(found), 0


def _bench(arguments: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    from voxconv.bench.command import bench

    return bench(arguments)


def _explain(arguments: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    from voxconv import explain

    planner = getattr(voxconv, f"plan_{arguments.operation}")
    if any(size < 0 for size in arguments.weight):
        raise ValueError(f"explain: the weight's shape {arguments.weight} must not hold a negative size")
    plan = planner(
        arguments.input, np.zeros(arguments.weight, arguments.dtype), None, arguments.stride, arguments.padding,
        arguments.dilation, arguments.groups, backend=arguments.backend, precision=arguments.precision,
    )  # fmt: skip
    found = plan.explain(as_dict=True)
    return found, explain.as_text(found), 0


def _selftest(_: argparse.Namespace) -> tuple[dict[str, Any], str, int]:
    from voxconv import selftest

    report = selftest.run()
    return report, selftest.as_text(report), 0 if report["passed"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="voxconv", description="Convolution and pooling for NumPy arrays on a CPU.")
    parser.add_argument("--version", action="version", version=voxconv.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, action: Any, help: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.add_argument("--json", action="store_true", help="one JSON document on standard output")
        made.set_defaults(action=action)
        return made

    command("doctor", _doctor, "Say what computes here and how fast it can be, and test each kernel.")

    demo = command("demo", _demo, "Train a small network on a real MR slice with synthetic lesions, and draw it.")
    demo.add_argument(
        "--task", choices=("classify", "detect", "segment", "reconstruct", "digits", "all"),
        help="one of four networks for radiology, or of digits, beside a classical method; all: what each must reach",
    )  # fmt: skip
    demo.add_argument("--data", type=Path, help="with --task: a DICOM file, a folder with a series, or a NIfTI file")
    demo.add_argument("--seeds", type=_positive, default=3, help="with --task: how often to train (3)")
    demo.add_argument("--out", type=Path, help="the picture to write (voxconv-demo.png, or voxconv-TASK.png)")
    demo.add_argument("--backend", choices=BACKENDS, default="auto", help="without --task: what computes")
    demo.add_argument("--no-timings", action="store_true", help="leave out the table of times")

    from voxconv.bench.command import add_arguments

    add_arguments(command("bench", _bench, "Time a suite of layers beside other libraries and the machine's peak."))

    explain = command("explain", _explain, "Say which algorithm a convolution takes and why, and how fast it can be.")
    explain.add_argument("operation", choices=("conv1d", "conv2d", "conv3d"))
    explain.add_argument("input", type=_shape, help="input shape, such as 1x64x56x56")
    explain.add_argument("weight", type=_shape, help="weight shape, such as 64x64x3x3")
    explain.add_argument("--stride", type=_per_axis, default=1)
    explain.add_argument("--padding", type=_padding, default=0, help="1; 1,2; 0:1,0:1 (before:after); same; valid")
    explain.add_argument("--dilation", type=_per_axis, default=1)
    explain.add_argument("--groups", type=_positive, default=1)
    explain.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    explain.add_argument("--backend", choices=BACKENDS, default="auto")
    explain.add_argument("--precision", choices=PRECISIONS, default="default")

    command("selftest", _selftest, "Check every operation of every backend against the reference.")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : list of str, optional
        Arguments, by default the process's own.

    Returns
    -------
    int
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    try:
        document, text, code = arguments.action(arguments)
        print(json.dumps(document, indent=2) if arguments.json else text, flush=True)
    except BrokenPipeError:
        # Whoever read the output has seen enough; without this Python complains again when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except USER_ERRORS as error:
        print(f"voxconv {arguments.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return int(code)


if __name__ == "__main__":
    sys.exit(main())
