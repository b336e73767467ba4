"""What has been run: one line of JSON a run, with its commit, its command and its figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))  # the jobs stand on the tests' own checks
LEDGER = Path(os.environ.get("SOAK_LEDGER", ROOT / "tests" / "soak" / "ledger.jsonl"))


def git(*arguments):
    return subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True, check=True).stdout.strip()


def commit():
    """The commit, with a + where sources differ from it."""
    return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", "csrc", "src") else "")


def record(job, seconds, **figures):
    """Append one run; print it too."""
    line = {"job": job, "date": time.strftime("%Y-%m-%d"), "commit": commit(), "seconds": round(seconds), **figures}
    text = json.dumps(line)
    with LEDGER.open("a") as file:
        file.write(text + "\n")
    print(text, flush=True)
    return line


def runs(job=None):
    """Every run so far, oldest first."""
    lines = [json.loads(line) for line in LEDGER.read_text().splitlines()] if LEDGER.exists() else []
    return [line for line in lines if job in (None, line["job"])]


def call(arguments, *, log=None, **options):
    """Run a command that must succeed; its standard output."""
    result = subprocess.run([str(a) for a in arguments], capture_output=True, text=True, **options)
    if result.returncode:
        words = " ".join(map(str, arguments))
        sys.exit(f"{words} gave {result.returncode}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}")
    return result.stdout
