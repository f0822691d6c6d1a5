"""Devices that cannot be used are named before anything runs."""

from __future__ import annotations

import pytest
import torch

from pyramid_seed.devices import parse_device, usable_device


def test_what_can_be_used_is_given_back():
    assert usable_device("cpu") == usable_device(torch.device("cpu")) == torch.device("cpu")
    assert parse_device("cuda:1") == torch.device("cuda", 1)  # known by name, wherever this runs


@pytest.mark.parametrize("name", ["gpu", "", "cuda:x", "graphics card"])
def test_a_name_that_torch_does_not_know(name):
    with pytest.raises(ValueError, match="noise_device must be one that torch knows, such as cpu"):
        usable_device(name, "noise_device")


def test_a_device_that_is_not_here():
    with pytest.raises(ValueError, match=r"device 'cuda:99' cannot be used here: .") as caught:
        usable_device("cuda:99")
    assert "\n" not in str(caught.value)
