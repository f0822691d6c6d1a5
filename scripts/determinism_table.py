"""Write the table of docs/determinism-levels.md anew: `PYTHONPATH=. python scripts/determinism_table.py`."""

from __future__ import annotations

from pathlib import Path

from pyramid_seed.determinism import levels_table

PAGE = Path(__file__).parents[1] / "docs" / "determinism-levels.md"
BEGIN = "<!-- table: written by scripts/determinism_table.py -->\n"
END = "<!-- end of table -->\n"


def with_current_table(page: str) -> str:
    """The page with the table that the code gives. ValueError if the page has no place for one."""
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise ValueError(f"the page must have one line {BEGIN.strip()!r} and one line {END.strip()!r}")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{levels_table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(with_current_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
