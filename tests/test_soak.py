"""The fault suite, for less than a minute: every promise of docs/reliability.md on a few scenarios of each kind."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "benchmarks"))

from ledger_server import FAULTS
from soak import soak
from soak_report import GROUPS, lines, rows

SCENARIOS = ["score", "budget", "score", "threads", "score", "predict", "budget", "push"]


@pytest.mark.slow
def test_faults_kills_and_signals_lose_nothing_and_pay_nothing_twice() -> None:
    tally = soak(4.0, seed=1, jobs=2, only=SCENARIOS, count=len(SCENARIOS), quick=True)
    assert tally.wrongs == []
    sums = tally.sums
    assert sums["scenarios"] == len(SCENARIOS)
    assert sum(tally.faults.values()) > 100
    assert sums["twice"] - sums["twice_left"] <= sums["wire_open"] + sums["wire_just"]
    assert sums["limits"] >= 2
    assert sums["scores"] > 200
    assert sums["pushed"] == 1
    figures = {what: figure for what, figure, _ in rows(tally)}
    assert (
        figures["wrong scores"] == figures["texts lost (rows missing, changed or moved; no score and no cause)"] == "0"
    )
    assert len(lines(tally)) == len(figures) + 1


def test_every_kind_of_fault_is_in_the_report() -> None:
    known = [kind for kinds in GROUPS.values() for kind in kinds]
    assert set(FAULTS) <= set(known)
    assert len(known) == len(set(known))
