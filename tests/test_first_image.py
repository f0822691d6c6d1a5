"""A first frame: the clip's size is its own, or it is brought to the clip's."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from pyramid_seed import extend, generate, verify
from pyramid_seed.cli import main
from pyramid_seed.media.frames import enlarge
from pyramid_seed.media.images import fitted, is_enlarged, open_image


@pytest.fixture
def picture() -> Image.Image:
    """96 high and 160 wide, no two of its pixels alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 160, 3), np.uint8)
    return Image.fromarray(pixels)


def of(image) -> np.ndarray:
    return np.asarray(image)


def test_fitting_keeps_an_image_of_the_right_size(picture):
    for fit in (None, "crop", "pad", "stretch"):
        assert np.array_equal(of(fitted(picture, 96, 160, fit)), of(picture))


def test_crop_cuts_around_the_middle_pad_puts_on_black_stretch_takes_all():
    half = Image.new("RGB", (128, 64), (255, 0, 0))
    half.paste((0, 255, 0), (32, 0, 96, 64))  # red, green in the middle, red
    assert (of(fitted(half, 64, 64, "crop")) == (0, 255, 0)).all()
    padded = of(fitted(half, 64, 64, "pad"))
    assert (padded[:16] == 0).all()
    assert (padded[48:] == 0).all()
    assert (padded[20:44, :12] == (255, 0, 0)).all()
    stretched = of(fitted(half, 64, 64, "stretch"))
    assert (stretched[:, 24:40] == (0, 255, 0)).all()
    assert (stretched[:, :8] == (255, 0, 0)).all()
    assert fitted(half, 64, 64, None) is half


def test_an_image_of_ours_is_known_by_its_equal_blocks(picture):
    for scale in (2, 3, 6):
        large = Image.fromarray(enlarge(of(picture), scale))
        assert is_enlarged(large, scale)
        assert np.array_equal(of(fitted(large, 96, 160, "crop")), of(picture))
        large.putpixel((1, 1), tuple(255 - value for value in large.getpixel((1, 1))))
        assert not is_enlarged(large, scale)
        assert fitted(large, 96, 160, None) is large
    assert not is_enlarged(picture, 2)
    assert not is_enlarged(picture, 7)  # divides neither side
    assert not is_enlarged(picture, 1)


@pytest.mark.slow
def test_the_enlargement_of_our_own_files_is_undone(tmp_path):
    few = {
        "num_inference_steps": 1,
        "video_num_inference_steps": 1,
        "num_frames": 1,
        "preset": "tiny",
        "scale": 2,
        "progress": False,
    }
    first = generate("a red circle", seed=1, **few)
    path = first.save(tmp_path / "first.png")
    assert open_image(path).size == (128, 128)
    ways = (path, str(path), open_image(path), Image.fromarray(first.frames[0]))
    small, *rest = [generate("a red circle", seed=2, image=image, **few) for image in ways]
    assert small.frames.shape == (1, 64, 64, 3)
    assert {clip.digest for clip in rest} == {small.digest}
    assert small.notes == ()
    # A size that is named is the size.
    assert generate("a red circle", seed=2, image=path, height=128, width=128, **few).settings.height == 128
    # A batch does the same, and its clip is verified with the very file.
    (tmp_path / "list.jsonl").write_text(
        json.dumps({"prompt": "a red circle", "seed": 2, "image": "first.png"})
    )
    options = ["--num-inference-steps", "1", "--num-frames", "1", "--scale", "2", "--quiet"]
    assert main(["batch", str(tmp_path / "list.jsonl"), "-o", str(tmp_path / "clips"), *options]) == 0
    (entry,) = map(json.loads, (tmp_path / "clips" / "index.jsonl").read_text().splitlines())
    assert entry["digest"] == small.digest
    made = tmp_path / "clips" / entry["file"]
    assert verify(made, image=path, progress=False).difference is None


def test_a_picture_is_fitted_and_the_manifest_says_how(picture, tmp_path):
    few = {"num_inference_steps": 1, "video_num_inference_steps": 1, "preset": "tiny", "progress": False}
    path = tmp_path / "picture.png"
    picture.save(path)
    by_hand = {
        "crop": ImageOps.fit(picture, (64, 64), Image.Resampling.LANCZOS),
        "stretch": picture.resize((64, 64), Image.Resampling.LANCZOS),
        "pad": ImageOps.pad(picture, (64, 64), Image.Resampling.LANCZOS),
    }
    for fit, image in by_hand.items():
        clip = generate("a red circle", seed=2, image=path, fit=fit, num_frames=1, **few)
        assert clip.frames.shape == (1, 64, 64, 3)
        assert clip.manifest["settings"]["fit"] == fit
        assert generate("a red circle", seed=2, image=image, num_frames=1, **few).digest == clip.digest
    saved = clip.save(tmp_path / "clip.mp4")
    assert verify(saved, image=path, progress=False).difference is None
    longer = generate("a red circle", seed=2, image=path, fit=fit, num_frames=5, **few)
    assert extend(saved, 5, image=path, progress=False).digest == longer.digest
    (tmp_path / "list.csv").write_text(f"prompt,seed,image,fit\na red circle,2,picture.png,{fit}\n")
    options = ["--num-inference-steps", "1", "--num-frames", "1", "--quiet"]
    assert main(["batch", str(tmp_path / "list.csv"), "-o", str(tmp_path / "clips"), *options]) == 0
    (entry,) = map(json.loads, (tmp_path / "clips" / "index.jsonl").read_text().splitlines())
    assert entry["digest"] == clip.digest


def test_a_turned_photograph_gives_the_clip_the_size_that_it_shows():
    """EXIF orientation 6: the pixels lie on their side, and a viewer turns them."""
    upright = Image.fromarray(np.random.default_rng(1).integers(0, 256, (64, 32, 3), np.uint8))
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    lying.getexif()[ExifTags.Base.Orientation] = 6
    few = {"num_inference_steps": 1, "num_frames": 1, "preset": "tiny", "progress": False}
    turned = generate("a", seed=1, image=lying, **few)
    assert turned.frames.shape == (1, 64, 32, 3)
    assert turned.digest == generate("a", seed=1, image=upright, **few).digest


def test_without_a_fit_the_message_offers_it(picture, tmp_path, capsys):
    path = tmp_path / "picture.png"
    picture.save(path)
    few = {"num_frames": 1, "preset": "tiny", "progress": False}
    with pytest.raises(ValueError, match=r"64 x 64, got 96 x 160; resize it first.*crop, pad or stretch"):
        generate("a", image=path, height=64, width=64, **few)
    picture.crop((0, 0, 90, 90)).save(path)
    with pytest.raises(ValueError, match=r"gives the clip its size of 90 x 90.*crop, pad or stretch"):
        generate("a", image=path, **few)
    with pytest.raises(ValueError, match="fit must be one of crop, pad, stretch, got 'squeeze'"):
        generate("a", image=path, fit="squeeze", **few)
    (tmp_path / "list.csv").write_text("prompt,image,height,width\na,picture.png,64,64\n")
    assert main(["batch", str(tmp_path / "list.csv"), "-o", str(tmp_path / "clips")]) == 2
    assert "or set fit to crop, pad or stretch" in capsys.readouterr().err
    command = ["generate", "a", "--image", str(path), "--num-frames", "1", "--num-inference-steps", "1"]
    assert main([*command, "--fit", "crop", "--quiet", "-o", str(tmp_path / "a.mp4")]) == 0


def test_an_array_is_not_fitted():
    with pytest.raises(TypeError, match="fit is for a file or a PIL image, got Tensor"):
        generate("a", image=torch.zeros(3, 96, 96), fit="crop", num_frames=1, progress=False)
