"""Energy and carbon of a training, measured by CodeCarbon where somebody asks for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def measured(country: str | None) -> Iterator[dict[str, Any]]:
    """Measure what happens inside.

    Args:
        country: Three-letter ISO code of the country whose power grid counts; CodeCarbon's own guess, from the network
            address, is not taken. `None`: do not measure.

    Yields:
        A dict that is empty until the end and then, if it was measured, holds `kg` (CO2 equivalent), `kwh` and
        `country`.

    Raises:
        ImportError: If CodeCarbon is not installed.
    """
    found: dict[str, Any] = {}
    if country is None:
        yield found
        return
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError:
        raise ImportError("`--track-emissions` needs CodeCarbon: pip install codecarbon.") from None
    tracker = OfflineEmissionsTracker(
        country_iso_code=country.upper(), save_to_file=False, log_level="critical", allow_multiple_runs=True
    )
    tracker.start()
    try:
        yield found
    finally:
        kilograms = tracker.stop()
        if kilograms is not None:
            energy = float(tracker.final_emissions_data.energy_consumed)
            found |= {"kg": float(kilograms), "kwh": energy, "country": country.upper()}
