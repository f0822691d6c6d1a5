"""What the tests of batches share."""

from __future__ import annotations

import pytest

from tests.batch.makers import run


@pytest.fixture(scope="session")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Digests of clips of one plain run, by file name."""
    return dict(run(tmp_path_factory.mktemp("plain"), 1, 2, 3, 4, 5).digests)
