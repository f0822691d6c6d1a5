"""Which memory modes are advised, by sizes that are made up."""

from __future__ import annotations

from pyramid_seed.pipelines.memory_modes import MemoryNeed, advice, memory_modes

GIB = 2**30


def need(**changes):
    weights = {"text_encoder": 1 * GIB, "text_encoder_2": 9 * GIB, "transformer": 4 * GIB, "vae": 1 * GIB}
    values = {
        "weights": weights,
        "largest_block": GIB // 4,
        "largest_layer": GIB // 16,
        "text_encoders": ("text_encoder", "text_encoder_2"),
        "work": 6 * GIB,
        "available": 16 * GIB,
        "on_accelerator": True,
        "is_float32": False,
        "tile_share": 1.0,
        "size": (768, 1280),
        "size_multiple": 64,
    }
    return MemoryNeed(**{**values, **changes})


def peaks(**changes):
    return {mode.call.split("(")[0]: mode.peak / GIB for mode in memory_modes(need(**changes))}


def test_the_arithmetic_of_every_mode():
    told = peaks(is_float32=True, tile_share=0.25)
    assert told == {
        'text_encoders="free"': 15 - 10 + 6,
        "pipeline.vae.enable_tiling": 15 + 1.5,
        "load_pipeline": (15 + 6) / 2,
        "pipeline.enable_model_cpu_offload": 9 + 6,
        "pipeline.enable_group_offload": 0.5 + 6,
        "pipeline.enable_sequential_cpu_offload": 1 / 16 + 6,
        "height=256, width=512": 15 + 6 * (256 * 512) / (768 * 1280),
    }


def test_model_offload_holds_one_component_at_a_time():
    """The largest one may be done by the time that a smaller one runs out."""
    offload = "pipeline.enable_model_cpu_offload"
    assert peaks(at_work="vae")[offload] == 9  # the text encoder's weights; 1 + 6 while decoding
    assert peaks(at_work="vae", work=20 * GIB)[offload] == 1 + 20
    assert peaks(at_work="text_encoder_2")[offload] == peaks()[offload] == 9 + 6


def test_modes_that_cannot_help_are_not_named():
    on_cpu = peaks(text_encoders=(), on_accelerator=False, size=None)
    assert on_cpu == {}
    assert "height" not in "".join(peaks(available=12 * GIB))  # weights alone are more
    assert "height" not in "".join(peaks(available=None))


def test_only_what_fits_is_advised():
    told = advice(need(available=12 * GIB))
    assert 'text_encoders="free" (about 11 GiB)' in told
    assert "group_offload" in told
    assert "model_cpu_offload" not in told


def test_where_nothing_fits():
    told = advice(need(available=5 * GIB))
    assert told.startswith(
        "no memory mode fits alone; pipeline.enable_sequential_cpu_offload() comes closest"
    )
    nothing = advice(need(text_encoders=(), on_accelerator=False, size=None))
    assert nothing == "no memory mode helps here: use a smaller height and width, or fewer frames"
