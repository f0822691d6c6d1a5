"""Digests of the latents at the end of each stage: they show in which stage of a unit two runs part."""

from __future__ import annotations

StageDigests = tuple[str, ...]
"""SHA-256 (see `noise_digest`) of one unit's latents after each stage, coarsest first; the last is the
unit's. An encoded image has no stages, and so no digests."""
