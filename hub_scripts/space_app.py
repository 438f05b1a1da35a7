"""What the `app.py` of a Space imports: its address stays, as Spaces are there that name it."""

from .space.space_page import serve

__all__ = ["serve"]
