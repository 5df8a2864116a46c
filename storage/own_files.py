"""Which files are a collector's own, so that nothing is written over them by mistake."""

from __future__ import annotations

from pathlib import Path

LOCK = "writer.lock"  # in each data directory
DATABASE = "wattbus.sqlite3"
MAGIC = b"SQLite format 3\0"  # https://sqlite.org/fileformat.html, section 1.3


def in_use(file: Path) -> bool:
    """Whether a file is a collector's database, or the log of one."""
    place = file.resolve()
    return place.exists() and place.name.startswith(DATABASE) and (place.parent / LOCK).exists()


def precious(file: Path) -> bool:
    """Whether a file is any SQLite database, is in a collector's directory, or cannot be read."""
    place = file.resolve()
    try:
        with place.open("rb") as opened:
            database = opened.read(len(MAGIC)) == MAGIC
    except FileNotFoundError:
        return False
    except OSError:
        return not place.is_dir()
    return database or any((directory / LOCK).exists() for directory in place.parents)
