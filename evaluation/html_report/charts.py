"""Geometry of the charts, which the template draws as SVG."""

from dataclasses import dataclass, field

LEFT, RIGHT, TOP, BOTTOM = 64, 18, 10, 42


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Args:
        name: Its name in the legend.
        points: `(x, y)`.
        style: Number of its colour and dash pattern.
        marks: Whether points are marked.
        joined: Whether points are joined.
        band: `(x, low, high)` of an interval; empty without.
    """

    name: str
    points: list[tuple[float, float]]
    style: int = 0
    marks: bool = False
    joined: bool = True
    band: list[tuple[float, float, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Chart:
    """A chart with two axes.

    Args:
        title: What it shows, in words; read out by screen readers.
        x_label: Name of the horizontal axis.
        y_label: Name of the vertical axis.
        lines: The lines.
        x_range: Smallest and largest value.
        y_range: The same of the vertical axis.
        diagonal: Whether the line x = y is drawn.
        width: In pixels, at full size.
        height: In pixels.
    """

    title: str
    x_label: str
    y_label: str
    lines: list[Line]
    x_range: tuple[float, float] = (0.0, 1.0)
    y_range: tuple[float, float] = (0.0, 1.0)
    diagonal: bool = False
    width: int = 460
    height: int = 340

    def x(self, value: float) -> float:
        """Pixels from the left."""
        low, high = self.x_range
        return round(LEFT + (self.width - LEFT - RIGHT) * (value - low) / (high - low), 1)

    def y(self, value: float) -> float:
        """Pixels from the top."""
        low, high = self.y_range
        return round(self.height - BOTTOM - (self.height - TOP - BOTTOM) * (value - low) / (high - low), 1)

    def path(self, points: list[tuple[float, float]]) -> str:
        """Points of a polyline."""
        return " ".join(f"{self.x(x)},{self.y(y)}" for x, y in points)

    def band(self, line: Line) -> str:
        """Points of the polygon of a line's interval."""
        return self.path([(x, high) for x, _, high in line.band] + [(x, low) for x, low, _ in reversed(line.band)])

    @property
    def x_ticks(self) -> list[tuple[float, str]]:
        """Values and labels of the horizontal axis."""
        return _ticks(*self.x_range)

    @property
    def y_ticks(self) -> list[tuple[float, str]]:
        """Values and labels of the vertical axis."""
        return _ticks(*self.y_range)


def _ticks(low: float, high: float, count: int = 4) -> list[tuple[float, str]]:
    """Round values in a range, about `count`, with labels of as many digits as they need."""
    wide = (high - low) / count
    power = 10.0 ** len(str(int(1 / wide))) if wide < 1 else 1.0
    step = min((s / power for s in (1, 2, 2.5, 5, 10, 20, 25, 50, 100)), key=lambda s: abs(s - wide))
    digits = next(d for d in range(8) if abs(step * 10**d - round(step * 10**d)) < 1e-9)
    first = int(low / step + 1 - 1e-9)
    values = [round(i * step, 9) for i in range(first, int(high / step + 1e-9) + 1)]
    return [(v, f"{v:.{digits}f}") for v in values]
