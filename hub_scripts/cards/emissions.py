"""Energy and carbon of a training, measured by CodeCarbon on request."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def measured(country: str | None) -> Iterator[dict[str, Any]]:
    """Measure the energy use inside the context.

    Args:
        country: Three-letter ISO code of the country whose power grid is used for the estimate; CodeCarbon's own guess
            from the network address is not used. `None`: do not measure.

    Yields:
        An empty dict. If measured, it is filled at the end with `kg` (CO2 equivalent), `kwh` and `country`.

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
