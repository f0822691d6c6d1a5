"""Write the table of docs/determinism-levels.md anew: `PYTHONPATH=. python scripts/determinism_table.py`."""

from __future__ import annotations

from pathlib import Path

from pyramid_seed.determinism import CUBLAS_VALUES, CUBLAS_VARIABLE, SETTINGS

PAGE = Path(__file__).parents[1] / "docs" / "determinism-levels.md"
BEGIN = "<!-- table: written by scripts/determinism_table.py -->\n"
END = "<!-- end of table -->\n"


def levels_table() -> str:
    """What each level sets, as a Markdown table: the one in docs/determinism-levels.md."""
    rows = [(setting.name, setting.strict, setting.relaxed, setting.why) for setting in SETTINGS]
    why_cublas = "Sums in cuBLAS in one order only; checked where CUDA is at hand, before it starts."
    rows.append((f"{CUBLAS_VARIABLE} (environment)", " or ".join(CUBLAS_VALUES), None, why_cublas))
    rows.append(("torch.autocast", False, None, "Fewer bits only where the model's dtype says so."))
    lines = ["| setting | strict | relaxed | why |", "| --- | --- | --- | --- |"]
    for name, strict, relaxed, why in rows:
        lines.append(f"| `{name}` | {_cell(strict)} | {_cell(relaxed)} | {why} |")
    return "\n".join(lines) + "\n"


def _cell(value: object) -> str:
    return "as found" if value is None else f"`{value}`"


def with_part(page: str, text: str, begin: str, end: str) -> str:
    """The page with this text between the lines `begin` and `end`. ValueError if it has not one of each."""
    if page.count(begin) != 1 or page.count(end) != 1:
        raise ValueError(f"the page must have one line {begin.strip()!r} and one line {end.strip()!r}")
    before, rest = page.split(begin)
    _, after = rest.split(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def with_current_table(page: str) -> str:
    """The page with the table that the code gives. ValueError if the page has no place for one."""
    return with_part(page, levels_table(), BEGIN, END)


if __name__ == "__main__":
    PAGE.write_text(with_current_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
