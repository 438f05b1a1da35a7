"""Imported by the `app.py` of a Space. The import path must stay, as existing Spaces use it."""

from .space.space_page import serve

__all__ = ["serve"]
