"""Whether a config is the user's own, or was loaded from the Hub."""

import os
from pathlib import Path


def foreign_source(name_or_path: str | None) -> str | None:
    """The source of a config that was loaded from the Hub.

    A config made in Python, a folder and a file are the user's own; what came by a Hub id is not, nor is a folder
    inside a cache of the Hub, where downloads are kept.

    Args:
        name_or_path: What `from_pretrained` was given; empty for a config that was not loaded.

    Returns:
        The Hub id, or the path inside a cache; None for what is the user's own.
    """
    if not name_or_path:
        return None
    path = Path(os.path.abspath(os.path.expanduser(name_or_path)))
    if not path.exists():
        return name_or_path
    for place in (path, path.resolve()):
        # A cache holds models--USER--NAME/snapshots/REVISION, and blobs that the files there are links to.
        if any(
            p.parent.name.startswith("models--") and p.name in ("snapshots", "blobs") for p in (place, *place.parents)
        ):
            return name_or_path
    return None
