"""Long runs, and the scoreboard that they feed.

    python tests/soak fuzz --seconds 600      one job
    python tests/soak all --seconds 3600      every job, the time shared out
    python tests/soak render                  the scoreboard alone
"""

from __future__ import annotations

import argparse
import sys

from jobs import JOBS
from scoreboard import render


def main():
    parser = argparse.ArgumentParser(prog="python tests/soak", description="Long runs of the checks, into the ledger.")
    parser.add_argument("job", choices=[*JOBS, "all", "render"])
    parser.add_argument("--seconds", type=float, default=60)
    arguments = parser.parse_args()
    if arguments.job == "render":
        return 0 if render() else 1
    chosen = JOBS if arguments.job == "all" else [arguments.job]
    return 0 if all([JOBS[name](arguments.seconds / len(chosen)) for name in chosen]) else 1


if __name__ == "__main__":
    sys.exit(main())
