"""`pyramid-seed presets`."""

from __future__ import annotations

from pyramid_seed.cli import main
from pyramid_seed.presets import list_presets


def test_every_preset_is_listed(capsys):
    assert main(["presets"]) == 0
    listed = capsys.readouterr().out
    assert not [name for name in list_presets() if name not in listed]
