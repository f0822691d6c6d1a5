"""Write the table of docs/presets.md anew: `PYTHONPATH=. python scripts/preset_table.py`."""

from __future__ import annotations

import json
from dataclasses import MISSING
from pathlib import Path

from determinism_table import with_part

from pyramid_seed.fields import Field, described_fields
from pyramid_seed.presets import Preset

PAGE = Path(__file__).parents[1] / "docs" / "presets.md"
BEGIN = "<!-- table: written by scripts/preset_table.py -->\n"
END = "<!-- end of table -->\n"
BASE = "| `base` | a preset of the package | none | gives the values of keys left out |"


def keys_table() -> str:
    """Every key of a preset's file: its rule, its default, what it is."""
    rows = [BASE, *(_row(field) for field in described_fields(Preset).values())]
    return "\n".join(["| key | value | default | what it is |", "| --- | --- | --- | --- |", *rows])


def _row(field: Field) -> str:
    highest = f"; at most {field.highest[0]:,}" if field.highest else ""
    default = "required" if field.default is MISSING else f"`{json.dumps(field.default)}`"
    return f"| `{field.name}` | {field.rule}{highest} | {default} | {field.help} |"


def with_current_table(page: str) -> str:
    """The page with the table that the code gives. ValueError if the page has no place for one."""
    return with_part(page, keys_table(), BEGIN, END)


if __name__ == "__main__":
    PAGE.write_text(with_current_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
