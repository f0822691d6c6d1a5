"""Make a first clip, and prove that its seed makes it again.

python examples/first_clip.py
"""

from pathlib import Path
from tempfile import TemporaryDirectory

from pyramid_seed import generate, verify

with TemporaryDirectory() as folder:
    path = Path(folder) / "circle.mp4"
    clip = generate("a red circle moves to the right on a white background", seed=19)
    clip.save(path)
    print(f"{clip.frames.shape[0]} frames, SHA-256 {clip.digest}")

    # The file says how it was made: verify makes the clip again from that alone, and compares every step.
    verification = verify(path)
    print("the same clip" if verification.same else f"differs: {verification.difference}")
    assert verification.same
