"""The figures of a run of the fault suite, for the screen and for docs/reliability.md."""

from soak_world import Tally


def lines(tally: Tally) -> list[str]:
    """The figures, a line each."""
    return [*(f"{k}: {v}" for k, v in sorted(tally.faults.items())), f"FAULTS {sum(tally.faults.values())}",
            *(f"{k}: {v}" for k, v in sorted(tally.sums.items())), *(f"{k}: {v:.2f}" for k, v in tally.most.items()),
            f"violations: {len(tally.wrongs)}"]  # fmt: skip


def write_report(tally: Tally, seed: int, minutes: float, jobs: int) -> None:
    """Write docs/reliability.md."""
