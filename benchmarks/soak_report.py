"""The figures of a run of the fault suite, for the screen and for docs/reliability.md."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version

from soak_world import ROOT, Tally

FAULTS_WANTED = 5000  # in 20 minutes
PACKAGES = ("openai", "huggingface-hub", "transformers", "torch", "numpy")
GROUPS = {  # how the kinds of fault are put together in the table
    "the API refuses or is down": ("429", "500", "503", "down", "error_200", "html"),
    "the connection breaks, hangs or is slow": ("hang", "late", "trickle", "truncated", "disconnect"),
    "a reply that is none: cut JSON, no choices, 5,000 digits, 5,000 brackets, odd usage": (
        *("malformed", "no_choices", "digits", "deep", "usage"),
    ),
    "an answer that cannot be used: refusal, prose, unknown or missing classes, wrong numbers, wrong numbering": (
        *("refusal", "prose", "unknown_class", "empty", "out_of_range", "from_zero", "missing_key", "extra_key"),
    ),
    "a good answer in another order": ("shuffled",),
    "signals: SIGINT, SIGTERM, SIGHUP, SIGKILL, SIGSTOP": ("SIGINT", "SIGTERM", "SIGHUP", "SIGKILL", "SIGSTOP"),
    "the disk: full, store locked, journal cut off, output half written": (
        *("full disk", "locked store", "journal cut off", "output half written"),
    ),
    "the Hub: 429, 500, 503, connections that break, LFS objects refused": (
        *(f"hub: {kind}" for kind in (429, 500, 503, "dropped", "unheard", "refused")),
    ),
}
GUARANTEES = """## What is guaranteed

* **Rows.** The output has the rows of the input, in order and unchanged, or is not there. A text without a score is
  null, never a guess; the command says how many there are and why, and ends with status 1 while another run may help.
* **Answers.** What has arrived is in the score store before anything else happens with it. After Ctrl-C, SIGTERM or
  SIGHUP nothing more is sent, and what is on the wire is waited for, for a few seconds. The same command goes on.
* **Paid twice.** After SIGKILL, or a second signal, at most the requests that were on the wire are sent again.
* **Money.** No more than the limit and one request is spent, over all runs of the same command.
* **Secrets and texts.** No secret is in any file or message. No text is in the store, a journal or a message.

## What is not guaranteed

* A request that the API bills and whose answer does not arrive whole (it hangs up, cuts the reply off, or is later than
  `timeout_s`) is sent again: nobody but the API knows what it had done. It counts against the limit.
* At SIGKILL nothing can be put away: what was on the wire is paid for, and the next run cannot know it.
* A full disk: what comes after the last answer that found room is paid and not kept. One warning is given, and nothing
  more is sent, unless `--no-cache` says that nothing shall be kept.
* A program of your own that does not catch SIGTERM or SIGHUP is ended by them as by SIGKILL.
* A power cut may take the last answers from the store: SQLite's `synchronous` is `NORMAL`.
"""


def rows(tally: Tally) -> list[tuple[str, str, str]]:
    """What was counted: name, figure, what it should be."""
    s, most = tally.sums, tally.most
    wire, left, twice = s["wire_open"] + s["wire_just"], s["twice_left"], s["twice"] - s["twice_left"]

    def units(name: str) -> str:
        return f"{most[name]:+.2f}" if name in most else "-"

    return [
        ("scenarios, runs of a command in them", f"{s['scenarios']}, {s['runs']}", ""),
        ("faults", f"{sum(tally.faults.values()):,}", f">= {FAULTS_WANTED:,}"),
        ("rows, scores in them", f"{s['rows']:,}, {s['scores']:,}", ""),
        ("scores missing because the API gave no usable answer", f"{s['without']:,}", ""),
        ("texts lost (rows missing, changed or moved; no score and no cause)", f"{s['texts_lost']}", "0"),
        ("wrong scores", f"{s['wrong']}", "0"),
        ("answers paid for", f"{s['paid']:,}", ""),
        ("answers lost that had arrived, without a kill", f"{s['answers_lost']}", "0"),
        ("ends without a chance (SIGKILL, a second signal)", f"{s['kills']}", ""),
        (
            "texts on the wire then: waiting for an answer, answered less than 0.1 s before",
            f"{s['wire_open']} + {s['wire_just']}",
            "",
        ),
        ("answers paid twice", f"{twice}", f"<= {wire}"),
        ("of these, arrived and not on the wire at a kill", f"{s['twice_unexplained']}", "0"),
        ("answers paid again that the API gave after the client had left", f"{left}", ""),
        ("replies paid for that broke off or could not be read (sent again)", f"{s['unusable']:,}", ""),
        ("answers that found no room on a full disk", f"{s['no_room']}", ""),
        ("runs with a limit in dollars", f"{s['limits']}", ""),
        (
            "dollars over the limit, in units of the dearest request: most, never killed",
            units("requests over the limit, not killed"),
            "<= 1",
        ),
        (
            "the same, killed, less what was on the wire at the kills",
            units("requests over the limit, less what was on the wire at kills"),
            "<= 1",
        ),
        ("longest time from a signal to the end", f"{most.get('seconds from a signal to the end', 0):.1f} s", ""),
        ("tracebacks", f"{s['tracebacks']}", "0"),
        ("files with a secret; files with a text that should have none", f"{s['secrets']}, {s['texts_kept']}", "0, 0"),
        ("models pushed, complete", f"{s['pushed']}", ""),
        ("guarantees broken, in all", f"{len(tally.wrongs)}", "0"),
    ]


def lines(tally: Tally) -> list[str]:
    """The figures, a line each."""
    kinds = ", ".join(f"{kind} {count}" for kind, count in sorted(tally.faults.items()))
    counted = [
        f"{what}: {figure}" + (f"   (should be {wanted})" if wanted else "") for what, figure, wanted in rows(tally)
    ]
    return [f"Faults by kind: {kinds}", *counted]


def write_report(tally: Tally, seed: int, minutes: float, jobs: int) -> None:
    """Write docs/reliability.md."""
    machine = f"{os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    scenarios = ", ".join(f"{n} `{k.split()[0]}`" for k, n in sorted(tally.sums.items()) if k.endswith(" scenarios"))
    text = (
        "# Reliability: what a fault costs\n\n"
        f"Written by `make soak MINUTES={minutes:.0f} SEED={seed}` on {datetime.now(UTC):%Y-%m-%d}: {machine}, "
        f"{packages}; {jobs} scenarios at once.\n\n"
        "A scenario runs the `labelfusion` command, or a small program, in processes of its own against servers on the "
        "loopback interface that fail at random, and signals or kills it at random points. The same command is run "
        "again until it says that it is done; then its files, the score store and the server's books are compared. The "
        "server answers each text by a hash of it, so that every right score is known, and keeps the bill. A fault "
        "counts when the client came to see it. The seed decides what is run and which request fails; how the "
        f"processes interleave is the machine's. Scenarios: {scenarios}.\n\n"
    )
    text += "| what | counted | guaranteed |\n| --- | ---: | ---: |\n"
    text += "".join(f"| {what} | {figure} | {wanted} |\n" for what, figure, wanted in rows(tally))
    text += "\n## Faults by kind\n\n| | faults |\n| --- | ---: |\n"
    known = {kind for kinds in GROUPS.values() for kind in kinds}
    for name, kinds in (*GROUPS.items(), ("others", tuple(tally.faults.keys() - known))):
        if count := sum(tally.faults[kind] for kind in kinds):
            text += f"| {name} | {count:,} |\n"
    if tally.wrongs:
        text += "\n## Broken guarantees\n\n" + "".join(f"* {what}\n" for what in tally.wrongs[:50])
    (ROOT / "docs" / "reliability.md").write_text(f"{text}\n{GUARANTEES}", encoding="utf-8")
