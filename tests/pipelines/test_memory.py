"""Weights and inputs are brought to one place and layout, so that they give the same bits."""

from __future__ import annotations

import torch
from torch import nn

from pyramid_seed.pipelines.memory import ALIGNMENT, align_weights, contiguous_copy, unmap_weights


def unaligned(values: torch.Tensor) -> torch.Tensor:
    """The values, one element past an aligned address."""
    room = torch.empty(values.numel() + 1)
    room[1:] = values.flatten()
    return room[1:].reshape(values.shape)


def test_contiguous_copy():
    values = torch.arange(24.0).reshape(2, 3, 4)
    for other in (values.permute(2, 0, 1).contiguous().permute(1, 2, 0), unaligned(values)):
        copy = contiguous_copy(other)
        assert torch.equal(copy, values)
        assert copy.is_contiguous()
        assert copy.data_ptr() % ALIGNMENT == 0


def test_weights_move_and_stay_tied():
    module = nn.Sequential(nn.Linear(7, 5), nn.Linear(7, 5), nn.BatchNorm1d(5))
    module[1].weight = module[0].weight
    values = {name: value.clone() for name, value in module.state_dict().items()}
    module[0].weight.data = unaligned(module[0].weight.data)
    module[2].running_mean = unaligned(module[2].running_mean)
    parameter = module[0].weight
    aligned_before = module[1].bias.data_ptr()

    align_weights(module)

    assert all(weight.data_ptr() % ALIGNMENT == 0 for weight in (*module.parameters(), *module.buffers()))
    assert module[0].weight is parameter
    assert module[1].weight is parameter
    assert module[1].bias.data_ptr() == aligned_before
    assert all(torch.equal(value, values[name]) for name, value in module.state_dict().items())


def test_owned_weights_lie_elsewhere_and_stay_tied():
    module = nn.Sequential(nn.Linear(7, 5), nn.Linear(7, 5), nn.BatchNorm1d(5))
    module[1].weight = module[0].weight
    values = {name: value.clone() for name, value in module.state_dict().items()}
    held = {name: value.data_ptr() for name, value in module.state_dict().items()}
    keep = list(module.state_dict().values())  # so that no address is given out again
    unmap_weights(module)
    assert all(value.data_ptr() != held[name] for name, value in module.state_dict().items())
    assert module[1].weight is module[0].weight
    assert all(torch.equal(value, values[name]) for name, value in module.state_dict().items())
    assert len(keep) == len(held)


def test_weights_elsewhere_are_left_alone():
    module = nn.Linear(3, 3, device="meta")
    align_weights(module)
    assert module.weight.is_meta


def test_a_pipeline_aligns_what_was_mapped_from_a_file(pipe):
    for part in pipe.components.values():
        if isinstance(part, nn.Module):
            assert all(weight.data_ptr() % ALIGNMENT == 0 for weight in part.parameters())
