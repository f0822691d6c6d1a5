"""Pages that are one file: templates that escape what they are given, and data in the place of addresses."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def page_template(
    path: Path,
    *,
    filters: Mapping[str, Callable[[Any], str]] | None = None,
    finalize: Callable[[object], object] | None = None,
) -> Any:
    """A Jinja template that escapes what it is given, and refuses names that it is not given.

    Args:
        path: the template's file.
        filters: functions that the template calls by name.
        finalize: applied to every value before it is escaped.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(path.parent),
        autoescape=True,
        finalize=finalize,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(path.name)


def data_url(media_type: str, data: bytes) -> str:
    """The address of data that a page holds itself, such as data_url("video/mp4", file.read_bytes())."""
    return f"data:{media_type};base64,{b64encode(data).decode('ascii')}"
