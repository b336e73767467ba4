"""The scoreboard of RELIABILITY.md, from the ledger: what was asked for, what was found, where and by which command."""

from __future__ import annotations

from collections import defaultdict

from ledger import ROOT, runs
from mutants import MUTANTS

BEGIN, END = "<!-- scoreboard -->\n", "<!-- end -->\n"
GRADIENTS_AND_POOLS = (
    "input_grad", "weight_grad", "bias_grad", "relu_grad", "max_pool", "avg_pool", "avg_pool_grad", "unfold", "fold",
    "scatter",
)  # fmt: skip


def total(lines, *keys):
    return sum(line.get(key, 0) for line in lines for key in keys)


def latest(job):
    """The newest run of a job, as a list of one, or none."""
    return runs(job)[-1:]


def where(lines):
    """Seeds by instruction set, and the commits they ran on."""
    spans = defaultdict(list)
    for line in lines:
        if "first" in line and "isa" in line:
            spans[line.get("processor", line["isa"])].append((line["first"], line["first"] + line["count"]))
    seeds = "; ".join(f"{isa} {', '.join(f'{a}..{b - 1}' for a, b in merged(s))}" for isa, s in spans.items())
    commits = list(dict.fromkeys(line["commit"] for line in lines))
    shown = commits[0] if len(commits) == 1 else f"{len(commits)} commits, {commits[0]} to {commits[-1]}"
    return f"seeds {seeds}; {shown}" if seeds else shown


def merged(spans):
    """Stretches of seeds as few as they can be."""
    found = []
    for first, end in sorted(span for span in spans if span[0] < span[1]):
        if found and first <= found[-1][1]:
            found[-1][1] = max(found[-1][1], end)
        else:
            found.append([first, end])
    return found


def rows():
    """Clause of the contract, figure, what it must be, what it is, job, the runs behind it, and a note."""
    fuzz = [line for line in runs("fuzz") if "failed" not in line]
    newest = [line for line in fuzz if line["commit"] == fuzz[-1]["commit"]] if fuzz else []

    def fuzzed(clause, name, must, *keys, lines=fuzz):
        return clause, name, must, f"{total(lines, *keys):,}, 0", "fuzz", lines, ""

    for line in latest("catalogue"):
        failed, checked = line.get("tests_failed", 0), f"{line['checked']} of {line['rows']}"
        reasons = "; ".join(f"{row}: {why}" for row, why in line["open"].items())
        note = f"not: {reasons}" if reasons else ""
        yield "1 to 8", "rows of the catalogue that are checked", "156 of 156", checked, "catalogue", [line], note
        total_tests = failed + line["tests_passed"]
        yield "1 to 8", "their tests that fail", "0", f"{failed} of {total_tests}", "catalogue", [line], ""
    yield fuzzed("1", "impossible and vast problems that C refuses, accepted", "0", "refused", "sizes")
    yield fuzzed("2", "random configurations between guard pages, mismatches", "20 million, 0", "count")
    yield fuzzed("2", "of them gradients and pooling", "5 million, 0", *GRADIENTS_AND_POOLS)
    yield fuzzed("2", "all of them on the newest commit alone", "", "count", lines=newest)
    for job, clause, name in (
        ("address,undefined", "2", "ASan and UBSan"), ("thread", "7", "TSan, 3 callers"), ("memcheck", "2", "memcheck")
    ):  # fmt: skip
        lines = [line for line in runs(f"fuzz {job}") if "failed" not in line]
        command = "memcheck" if job == "memcheck" else "sanitize"
        name = f"{name}: cases, findings, suppressions"
        yield clause, name, "0, 0", f"{total(lines, 'count'):,}, 0, 0", command, lines, ""
    yield fuzzed("3", "the same bits on 2 to 8 threads as on one", "1 million, 0", "threaded")
    yield fuzzed("3", "the same bits at another alignment, 0 to 63", "1 million, 0", "count")
    yield fuzzed("3", "the same bits of a sample or plane alone", "1 million, 0", "sliced")
    laid = runs("bits")
    found = f"{total(laid, 'configurations'):,}, 0"
    yield "3", "the same bits in 23 layouts, through Python", "1 million, 0", found, "bits", laid, ""
    yield fuzzed("4", "sums of integers, not exact", "", "exact")
    yield fuzzed("4", "Winograd's, beyond its bound", "", "winograd")
    for key, name in (("worst", "gamma_d bound"), ("worst_winograd", "bound of Winograd's")):
        most = max((line[key] for line in fuzz), default=0)
        yield "4", f"largest error, in units of the {name}", "1", f"{most}", "fuzz", fuzz, ""
    special = [line for line in fuzz if "special" in line]
    yield fuzzed("5", "a NaN or an infinity in an operand, misplaced in the result", "", "special", lines=special)
    for line in latest("growth"):
        grown = max(value for key, value in line.items() if key.endswith("_bytes"))
        name = "growth over a million calls: fixed, varying, refused; 100,000 large results"
        yield "6", name, "under 1 MiB", f"{grown / 1024:.0f} KiB", "growth", [line], ""
    for job, key, clause, name, must in (
        ("plans", "plans", "4, 6", "plans under a limit: beyond it, beyond the error bound, other bits", "0"),
        ("recycled", "results", "6, 7", "results held over recycled memory, with threads and forks, changed", "0"),
        ("forks", "cycles", "7", "forks before and during calls, hangs", "1,000, 0"),
        ("hammer", "calls", "7", "calls of 16 callers at once, other bits", "0"),
        ("hammer without the lock", "calls", "7", "the same on a free-threaded interpreter, other bits", "0"),
    ):
        command = "free-threaded" if job == "hammer without the lock" else job
        yield clause, name, must, f"{total(runs(job), key):,}, 0", command, runs(job), ""
    for line in latest("interrupts"):
        found = f"{line['worst_milliseconds']} ms"
        yield "7", "longest wait for an interrupt, on a busy machine", "250 ms", found, "interrupts", [line], ""
    emulated = runs("fuzz emulated")
    yield "8", "on emulated processors", "", f"{total(emulated, 'count'):,}, 0", "emulate", emulated, ""
    for part, must in (("csrc", "98%"), ("src", "95%")):
        for line in latest(f"coverage of {part}"):
            yield "all", f"lines of {part} that tests reach", must, f"{line['reached']}%", "coverage", [line], ""
    present = {mutant[0] for mutant in MUTANTS}  # of some that were tried the lines are gone
    verdicts = [(line, *verdict) for line in runs("mutants") for verdict in line["verdicts"].items()]
    tried = {name: (line, dead) for line, name, dead in verdicts if name in present}
    if tried:
        lines, alive = runs("mutants"), [name for name, (_, dead) in tried.items() if not dead]
        note = f"alive: {'; '.join(alive)}" if alive else ""
        killed = f"{len(tried) - len(alive)} of {len(tried)}"
        yield "all", "mutants killed, each in seconds", "40 of 40", killed, "mutants", lines, note


def render(seconds=0):
    """Write the table into RELIABILITY.md."""
    text = ["| clause | figure | must | is | `soak` | where |", "| --- | --- | --- | --- | --- | --- |"]
    notes = []
    for clause, name, must, found, job, lines, note in rows():
        if not lines:
            text.append(f"| {clause} | {name} | {must} | not run yet | {job} | |")
            continue
        place = "; ".join(part for part in (where(lines), note) if part)
        if place not in notes:
            notes.append(place)
        text.append(f"| {clause} | {name} | {must} | {found} | {job} | {notes.index(place) + 1} |")
    text += ["", *(line for i, note in enumerate(notes, 1) for line in _wrapped(f"{i}. {note}"))]
    page = ROOT / "RELIABILITY.md"
    before, rest = page.read_text().split(BEGIN)
    page.write_text(before + BEGIN + "\n" + "\n".join(text) + "\n\n" + END + rest.split(END)[1])
    print("\n".join(text))
    return True


def _wrapped(text):
    import textwrap

    return textwrap.wrap(text, 118, subsequent_indent="   ", break_long_words=False)
