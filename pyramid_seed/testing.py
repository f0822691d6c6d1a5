"""A pytest plugin: does a model still make the clip that it made when the record of a test was written?

    def test_style(clip_regression):
        clip_regression.check(generate("a red circle", seed=1, pipeline=pipe))

`pytest --clip-regression-renew` writes the records. pytest loads the plugin in every run, so nothing heavy is
imported before a clip is checked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .record import Recordable

_TOLD = "clip_regression"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option."""
    parser.getgroup("pyramid_seed").addoption(
        "--clip-regression-renew",
        action="store_true",
        help="write the records of clip_regression anew, from the clips that the tests make now",
    )


@pytest.fixture
def clip_regression(request: pytest.FixtureRequest, tmp_path: Path) -> ClipRegression:
    """Compares clips with the records beside the test."""
    return ClipRegression(request.node, tmp_path)


class ClipRegression:
    """The records of one test: for `test_x.py` they are in the folder `test_x`, under the test's name.

    Args:
        test: the test that they belong to.
        scratch: a folder for pictures of what changed.
    """

    def __init__(self, test: pytest.Item, scratch: Path) -> None:
        self._test = test
        self._scratch = scratch

    def check(
        self,
        clip: Recordable,
        *,
        name: str | None = None,
        max_levels: float | None = None,
        max_mean: float | None = None,
    ) -> None:
        """Fail if the clip differs from the record's.

        If the kernels are those of the machine that recorded it, everything is compared bit for bit;
        otherwise weights and noise bit for bit, and the recorded frames within bounds. The end of pytest's
        output says which it was.

        Args:
            clip: from `generate`, or one of `keyed(pipe)(...).clips`; with its frames.
            name: the record's name, for tests of several clips; default: the test's.
            max_levels, max_mean: the bounds, see `record.compare_with_record`; default: as seen in float32.
                Models in bfloat16 need wider ones.
        """
        __tracebackhide__ = True
        from . import record

        path = self._path(name or self._test.name)
        bounds = {
            "max_levels": record.MAX_LEVELS if max_levels is None else max_levels,
            "max_mean": record.MAX_MEAN if max_mean is None else max_mean,
        }
        if self._test.config.getoption("clip_regression_renew"):
            self._tell(f"{path.name}: {record.renew_record(path, clip)}")
            return
        if not path.is_file():
            pytest.fail(f"there is no record {path}; write it: pytest --clip-regression-renew", pytrace=False)
        kept = record.read_record(path)
        comparison = record.compare_with_record(kept, clip, **bounds)
        if not comparison.is_same:
            picture = self._scratch / f"{path.stem}-moved.png"
            record.write_side_by_side(picture, kept, clip)
            shown = f"then, now, and the difference amplified: {picture}"
            pytest.fail(f"{path.name}: {comparison}\n{shown}", pytrace=False)
        self._tell(f"{path.name}: {comparison}")

    def _path(self, name: str) -> Path:
        stem = re.sub(r"[^\w.-]+", "-", name).strip("-.")
        return self._test.path.with_suffix("") / f"{stem}.json"

    def _tell(self, text: str) -> None:
        self._test.user_properties.append((_TOLD, text))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say for every clip that passed how it was compared."""
    told = list(_told(terminalreporter))
    if told:
        terminalreporter.section("clip regression")
        for line in told:
            terminalreporter.line(line)


def _told(reporter: pytest.TerminalReporter) -> Iterator[str]:
    for report in reporter.getreports("passed"):
        if report.when == "call":
            texts = [text for name, text in report.user_properties if name == _TOLD]
            yield from (f"{report.nodeid}: {text}" for text in texts)
