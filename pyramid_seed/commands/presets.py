"""`pyramid-seed presets`."""

from __future__ import annotations

import argparse

from .options import Commands


def add(commands: Commands) -> None:
    """Declare the command."""
    parser = commands.add_parser("presets", help="list the presets", description="List the presets.")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:  # noqa: ARG001 - every command takes its options
    """`pyramid-seed presets`."""
    from ..presets import list_presets, load_preset

    for name in list_presets():
        preset = load_preset(name)
        length = f"{preset.num_frames} frames at {preset.fps:g} fps" if preset.num_frames > 1 else "a picture"
        size = f"{preset.height}x{preset.width}, {length}"
        print(f"{name:16} {size:32} {preset.model}")
        print(f"{'':16} {preset.description}")
    return 0
