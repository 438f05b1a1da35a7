"""Writes the HTML report."""

import base64
import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..diagnosis.measurement import Measurement
from ..reports.report_content import describe
from .html_content import html_content

if TYPE_CHECKING:
    from markupsafe import Markup

SUFFIXES = (".html", ".htm")


def check_html_path(path: str | Path) -> Path:
    """The path of a report to write.

    Raises:
        ValueError: For a name that browsers would not open as HTML, or a folder.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES or path.is_dir():
        raise ValueError(f"`html` is {str(path)!r}; expected the name of a file that ends in .html.")
    return path


def write_html(measured: Measurement, report: dict[str, Any], path: str | Path, texts: bool = True) -> Path:
    """Write a run as one HTML file, without scripts and without requests; return its path.

    Args:
        measured: The run.
        report: Its report, from `report_content.describe`.
        path: The file.
        texts: Show texts of the data. Such a file holds them: keep it where the data may be.
    """
    path = check_html_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_html(measured, report, texts), encoding="utf-8", errors="replace")
    return path


def save_html(measured: Measurement, path: str | Path, data: Any) -> Path:
    """`write_html` for `AutoFusionClassifier.evaluate`; data are named if they are a file."""
    named = Path(data).name if isinstance(data, str | Path) else "the data"
    model = Path(str(measured.config.name_or_path)).name or "the model"
    return write_html(measured, describe(measured, named, model), path)


def to_html(measured: Measurement, report: dict[str, Any], texts: bool = True) -> str:
    """The report as HTML; see `write_html`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = Path(__file__).parent
    style = (here / "report.css").read_text(encoding="utf-8")
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,  # whatever comes from data, classes, LLMs and errors
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "number": number, "dollars": dollars, "code": code}
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    content = html_content(measured, report, texts)
    return environment.get_template("report.html.jinja").render(
        report=report, style=style, digest=digest, style_count=6, **content
    )


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f} %"


def number(value: float | None, digits: int = 3) -> str:
    """A number; a dash for None."""
    return "–" if value is None else f"{value:.{digits}f}"


def dollars(value: float | None) -> str:
    """US dollars, with enough digits for small sums; a dash for None."""
    if value is None:
        return "–"
    return "$0" if value == 0 else f"${value:.2f}" if value >= 1 else f"${value:.4f}"


def code(text: str) -> "Markup":
    """Text with what stands between backticks as code, escaped."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    if len(parts) % 2 == 0:  # a backtick of a class name
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)
    )
