"""Pictures that people give, as 8-bit RGB, or refused where that would change what they show."""

from __future__ import annotations

from PIL import Image, ImageOps


def rgb_picture(image: Image.Image, name: str = "image") -> Image.Image:
    """A picture as 8-bit RGB, turned as its EXIF orientation says.

    Args:
        image: in any mode of Pillow.
        name: what to call it in messages.

    Raises:
        ValueError: its pixels have more than 8 bits, or some of them are transparent.
    """
    # Pillow's convert cuts such values off at 255, so that most of the picture would be white.
    if image.mode.startswith(("I", "F")):
        raise ValueError(
            f"{name} has pixels of more than 8 bits (Pillow's mode {image.mode}); save it as 8-bit RGB first"
        )
    # Pillow's convert shows the colour that is hidden behind transparent pixels.
    if image.has_transparency_data:
        counts = image.convert("RGBA").getchannel("A").histogram()
        lowest = next((alpha for alpha, count in enumerate(counts) if count), 255)
        if lowest < 255:
            raise ValueError(
                f"{name} has transparent pixels (the lowest alpha is {lowest}, it must be 255); put it on a "
                "background first"
            )
    return ImageOps.exif_transpose(image).convert("RGB")
