"""Building blocks of the causal video autoencoder, shared by its encoder and its decoder.

Every `x` is (B, C, T, H, W): batch, channels, frames, height, width.

Everything is causal in time: an output frame depends only on input frames of the same or an earlier time.
So a clip can run through the network in chunks, given the frames that each convolution saw last; these are
in a `TemporalCache`, made by the caller for one pass over one clip and handed down through `forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, cast

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from .rounding import needs_float32

NORM_EPS = 1e-6


class TemporalCache:
    """The last input frames of every causal convolution, for one pass over one clip.

    Deliberately not a mapping and without `.to`: accelerate's hooks copy mappings that pass through
    `forward`, and anything written to such a copy is lost.
    """

    def __init__(self) -> None:
        self._frames: dict[nn.Module, Tensor] = {}
        self.is_last = False
        """Whether no chunk follows the current one, so that nothing has to be kept."""

    def get(self, module: nn.Module) -> Tensor | None:
        """What `module` kept from the previous chunk, or None at its first chunk."""
        return self._frames.get(module)

    def put(self, module: nn.Module, frames: Tensor) -> None:
        """Keep a copy of `frames` (B, C, T, H, W) for `module`'s next chunk: a view would keep all alive."""
        if self.is_last:
            self._frames.pop(module, None)
        else:
            self._frames[module] = frames.clone()


class Follower(Protocol):
    """Runs a chunk while the previous one is still in progress; for example `pieces.workers.Workers`."""

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Return once `holds()` is true; it is checked again at each call of `tell`."""
        ...

    def tell(self) -> None:
        """Say that something has changed that others may wait for."""
        ...

    def give_way(self) -> None:
        """Let more urgent work go first."""
        ...


class LinkedCache(TemporalCache):
    """The memory of one chunk that follows another one from convolution to convolution.

    Only what the convolutions keep passes between chunks, so several may be in progress at a time.

    Args:
        before: the memory of the previous chunk; None for the first one.
        follower: runs the chunk.
        is_last: whether no chunk follows.
    """

    def __init__(self, before: LinkedCache | None, follower: Follower, *, is_last: bool) -> None:
        super().__init__()
        self.before = before
        self._follower = follower
        self.is_last = is_last

    def get(self, module: nn.Module) -> Tensor | None:
        """What the previous chunk kept for `module`, as soon as it is there; None for the first chunk."""
        self._follower.give_way()
        if self.before is None:
            return None
        kept = self.before._frames
        self._follower.wait_until(lambda: module in kept)
        return kept[module]

    def put(self, module: nn.Module, frames: Tensor) -> None:
        """Keep `frames` for the next chunk; the previous chunk's have been used."""
        super().put(module, frames)
        if self.before is not None:
            del self.before._frames[module]
        self._follower.tell()


def frame_wise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function of images (N, C, H, W) to each frame of (B, C, T, H, W) separately."""
    images = function(x.transpose(1, 2).flatten(0, 1))
    return images.unflatten(0, (x.shape[0], x.shape[2])).transpose(1, 2)


class FrameGroupNorm(nn.GroupNorm):
    """Group normalisation with each frame's own statistics: over time it would not be causal."""

    def forward(self, x: Tensor) -> Tensor:
        return frame_wise(super().forward, x)


def has_fast_channels_last(x: Tensor) -> bool:
    """Whether channels last is the faster layout for these networks, on the device of `x`.

    It is on the CPU (measured: convolutions up to twice as fast, normalisation of frames without copies);
    CUDA's group normalisation goes back to channels first each time.
    """
    return x.device.type == "cpu"


class TimeConv3d(nn.Conv3d):
    """`torch.nn.Conv3d` that runs as a smaller operation where that is better.

    Where one frame comes out, the frames under the kernel become channels of one image: image kernels are
    better, and frames that are known to be zero are left out. The same holds where torch has only a slow
    kernel for clips. A 1x1x1 convolution with channels last is a linear layer.
    """

    def forward(self, x: Tensor, num_empty: int = 0) -> Tensor:
        """(B, in_channels, T, H, W), preceded by `num_empty` zero frames -> (B, out_channels, T', H', W')."""
        if not needs_float32(x):
            return self._convolved(x, self.weight, self.bias, num_empty)
        bias = None if self.bias is None else self.bias.float()
        return self._convolved(x.float(), self.weight.float(), bias, num_empty).to(x.dtype)

    def _convolved(self, x: Tensor, weight: Tensor, bias: Tensor | None, num_empty: int) -> Tensor:
        span, stride = self.kernel_size[0], self.stride[0]
        if self.kernel_size == self.stride == (1, 1, 1) and has_fast_channels_last(x):
            return F.linear(x.movedim(1, -1), weight.flatten(1), bias).movedim(-1, 1)
        flat = weight.transpose(1, 2).flatten(1, 2)
        if num_empty + x.shape[2] == span:
            images = x.transpose(1, 2).flatten(1, 2)
            flat = flat[:, num_empty * self.in_channels :]
        else:
            if num_empty:  # F.pad copies in any case
                x = F.pad(x, (0, 0, 0, 0, num_empty, 0))
            if not _is_slow_as_clip(x):
                return self._conv_forward(x, weight, bias)
            windows = x.unfold(2, span, stride)  # (B, C, T', H, W, span)
            images = windows.permute(0, 2, 5, 1, 3, 4).flatten(2, 3).flatten(0, 1)
        y = F.conv2d(images, flat, bias, self.stride[1:], self.padding[1:])
        return y.unflatten(0, (x.shape[0], -1)).transpose(1, 2)


def _is_slow_as_clip(x: Tensor) -> bool:
    """Whether torch convolves `x` without oneDNN, see `use_mkldnn` in its Convolution.cpp.

    Its rule is made for images and looks at only four sizes, which for an image include the width.
    """
    return x.device.type == "cpu" and x.shape[:4].numel() <= 20480


class CausalConv3d(nn.Module):
    """3-D convolution that sees only the past: zero padding in space and, before the first frame, in time.

    Args:
        in_channels, out_channels: as in `torch.nn.Conv3d`.
        kernel_size: odd, the same in time, height and width.
        stride: (time, height, width).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: tuple[int, int, int] = (1, 1, 1)
    ) -> None:
        super().__init__()
        space = kernel_size // 2
        self.past_frames = kernel_size - 1
        self.conv = TimeConv3d(in_channels, out_channels, kernel_size, stride, padding=(0, space, space))

    def forward(self, x: Tensor, cache: TemporalCache | None = None, after_silu: bool = False) -> Tensor:
        """(B, in_channels, T, H, W) -> (B, out_channels, T', H', W'); with a cache, x is the next chunk.

        With `after_silu`, SiLU(x) is convolved, and x may be changed.
        """
        past = cache.get(self) if cache is not None and self.past_frames else None
        num_empty = self.past_frames if past is None else 0
        if past is not None:
            x = _behind(past, x, after_silu)
        elif after_silu:
            x = F.silu(x, inplace=True)
        y = self.conv(x, num_empty)
        if cache is not None and self.past_frames:
            # The next output starts stride * T' frames later; all input from there on is still needed.
            start = self.conv.stride[0] * y.shape[2] - num_empty
            kept = x[:, :, start:] if start >= 0 else F.pad(x, (0, 0, 0, 0, -start, 0))
            cache.put(self, kept)
        return y


def _behind(past: Tensor, x: Tensor, after_silu: bool) -> Tensor:
    """`past` (B, C, P, H, W), then x (B, C, T, H, W) or its SiLU: (B, C, P + T, H, W). May change x.

    The activation is written straight to its place, where autograd would copy it.
    """
    if not after_silu:
        return torch.cat([past, x], dim=2)
    if torch.is_grad_enabled():
        return torch.cat([past, F.silu(x, inplace=True)], dim=2)
    batch, channels, frames, height, width = x.shape
    num_past = past.shape[2]
    is_last = x.is_contiguous(memory_format=torch.channels_last_3d)
    joined = torch.empty(
        (batch, channels, num_past + frames, height, width),
        dtype=x.dtype,
        device=x.device,
        memory_format=torch.channels_last_3d if is_last else torch.contiguous_format,
    )
    joined[:, :, :num_past] = past
    torch.ops.aten.silu.out(x, out=joined[:, :, num_past:])
    return joined


class CausalResnetBlock(nn.Module):
    """Two norm-SiLU-convolution steps and a shortcut."""

    def __init__(self, in_channels: int, out_channels: int, norm_num_groups: int) -> None:
        super().__init__()
        self.norm1 = FrameGroupNorm(norm_num_groups, in_channels, eps=NORM_EPS)
        self.conv1 = CausalConv3d(in_channels, out_channels, kernel_size=3)
        self.norm2 = FrameGroupNorm(norm_num_groups, out_channels, eps=NORM_EPS)
        self.conv2 = CausalConv3d(out_channels, out_channels, kernel_size=3)
        self.conv_shortcut = (
            None if in_channels == out_channels else CausalConv3d(in_channels, out_channels, kernel_size=1)
        )

    def forward(self, x: Tensor, cache: TemporalCache | None = None) -> Tensor:
        h = self.conv1(self.norm1(x), cache, after_silu=True)
        h = self.conv2(self.norm2(h), cache, after_silu=True)
        if self.conv_shortcut is not None:
            x = self.conv_shortcut(x)
        return h.add_(x)


class CausalDownsample(nn.Module):
    """Strided convolution; `factor` is (time, height, width). r k + 1 frames become k + 1."""

    def __init__(self, channels: int, factor: tuple[int, int, int]) -> None:
        super().__init__()
        self.conv = CausalConv3d(channels, channels, kernel_size=3, stride=factor)

    def forward(self, x: Tensor, cache: TemporalCache | None = None) -> Tensor:
        return self.conv(x, cache)


class CausalUpsample(nn.Module):
    """Convolution, then channels to time and space; `factor` is (time, height, width).

    The first frame of a clip stands for one frame, not for a group: of the frames made from it only the last
    one stays, so that k + 1 frames become r k + 1.
    """

    def __init__(self, channels: int, factor: tuple[int, int, int]) -> None:
        super().__init__()
        self.factor = factor
        time, height, width = factor
        self.conv = CausalConv3d(channels, channels * time * height * width, kernel_size=3)

    def forward(self, x: Tensor, cache: TemporalCache | None = None) -> Tensor:
        clip_starts = cache is None or cache.get(self.conv) is None
        time, height, width = self.factor
        x = self.conv(x, cache).unflatten(1, (-1, time, height, width))
        # (B, C, time, height, width, T, H, W) -> (B, T, time, H, height, W, width, C)
        x = x.permute(0, 5, 2, 6, 3, 7, 4, 1)
        if has_fast_channels_last(x):
            x = x.flatten(5, 6).flatten(3, 4).flatten(1, 2).permute(0, 4, 1, 2, 3)
        else:
            x = x.movedim(-1, 1).flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return x[:, :, time - 1 :] if clip_starts else x


class CausalMidBlock(nn.Module):
    """Resnet, self-attention within each frame (one head), resnet."""

    def __init__(self, channels: int, norm_num_groups: int, add_attention: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(CausalResnetBlock(channels, channels, norm_num_groups) for _ in range(2))
        self.attentions = nn.ModuleList()
        if add_attention:
            self.attentions.append(
                Attention(
                    channels,
                    heads=1,
                    dim_head=channels,
                    norm_num_groups=norm_num_groups,
                    eps=NORM_EPS,
                    residual_connection=True,
                    bias=True,
                )
            )

    def forward(self, x: Tensor, cache: TemporalCache | None = None) -> Tensor:
        x = self.resnets[0](x, cache)
        for attention in self.attentions:
            x = frame_wise(attention, x)
        return self.resnets[1](x, cache)


class _Level(nn.Module):
    """Resnets in a row, then a spatial resampler, then a temporal one, each if requested; in that order."""

    resampler: type[nn.Module]
    resamplers: str
    """Name of the list that holds the spatial resampler."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_layers: int,
        norm_num_groups: int,
        space: bool,
        time: bool,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            CausalResnetBlock(in_channels if layer == 0 else out_channels, out_channels, norm_num_groups)
            for layer in range(num_layers)
        )
        for name, is_wanted, factor in (
            (self.resamplers, space, (1, 2, 2)),
            (f"temporal_{self.resamplers}", time, (2, 1, 1)),
        ):
            self.add_module(name, nn.ModuleList([self.resampler(out_channels, factor)] if is_wanted else []))

    def forward(self, x: Tensor, cache: TemporalCache | None = None) -> Tensor:
        for modules in self.children():
            for module in cast(nn.ModuleList, modules):
                x = module(x, cache)
        return x


class CausalDownBlock(_Level):
    """One level of the encoder: resnets, then half the space, then half the time, each if requested."""

    resampler, resamplers = CausalDownsample, "downsamplers"


class CausalUpBlock(_Level):
    """One level of the decoder: resnets, then twice the space, then twice the time, each if requested."""

    resampler, resamplers = CausalUpsample, "upsamplers"


class Levels(NamedTuple):
    """The levels of an encoder or a decoder, one entry per level in the order in which they run.

    Attributes:
        num_layers: number of resnets.
        widths: output channels; the first level has as many input channels.
        space, time: whether it is resampled.
    """

    num_layers: Sequence[int]
    widths: Sequence[int]
    space: Sequence[bool]
    time: Sequence[bool]

    def blocks(self, block: type[_Level], norm_num_groups: int) -> nn.ModuleList:
        """One block per level."""
        rows = zip([self.widths[0], *self.widths[:-1]], *self, strict=True)
        return nn.ModuleList(
            block(block_in, block_out, num_layers, norm_num_groups, space, time)
            for block_in, num_layers, block_out, space, time in rows
        )


class _Network(nn.Module):
    """conv_in, blocks, conv_norm_out, SiLU, conv_out: what encoder and decoder share."""

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Tensor]  # set by ModelMixin.enable_gradient_checkpointing

    def __init__(self, in_channels: int, out_channels: int, levels: Levels, norm_num_groups: int) -> None:
        super().__init__()
        first, last = levels.widths[0], levels.widths[-1]
        self.conv_in = CausalConv3d(in_channels, first, kernel_size=3)
        self.conv_norm_out = FrameGroupNorm(norm_num_groups, last, eps=NORM_EPS)
        self.conv_out = CausalConv3d(last, out_channels, kernel_size=3)

    def blocks(self) -> Sequence[nn.Module]:
        """The blocks between conv_in and conv_norm_out, in order."""
        raise NotImplementedError

    def forward(self, x: Tensor, cache: TemporalCache | None = None) -> Tensor:
        if has_fast_channels_last(x):
            x = x.contiguous(memory_format=torch.channels_last_3d)
        x = self.conv_in(x, cache)
        # A block that runs again in the backward pass would find its cache changed.
        checkpointing = self.gradient_checkpointing and torch.is_grad_enabled() and cache is None
        for block in self.blocks():
            x = self._gradient_checkpointing_func(block, x) if checkpointing else block(x, cache)
        return self.conv_out(self.conv_norm_out(x), cache, after_silu=True)


class CausalEncoder(_Network):
    """Pixels (B, in_channels, T, H, W) to features (B, out_channels, T', H', W')."""

    def __init__(
        self, in_channels: int, out_channels: int, levels: Levels, norm_num_groups: int, add_attention: bool
    ) -> None:
        super().__init__(in_channels, out_channels, levels, norm_num_groups)
        self.down_blocks = levels.blocks(CausalDownBlock, norm_num_groups)
        self.mid_block = CausalMidBlock(levels.widths[-1], norm_num_groups, add_attention)

    def blocks(self) -> Sequence[nn.Module]:
        return [*self.down_blocks, self.mid_block]


class CausalDecoder(_Network):
    """Latents (B, in_channels, T, H, W) to pixels (B, out_channels, T', H', W')."""

    def __init__(
        self, in_channels: int, out_channels: int, levels: Levels, norm_num_groups: int, add_attention: bool
    ) -> None:
        super().__init__(in_channels, out_channels, levels, norm_num_groups)
        self.mid_block = CausalMidBlock(levels.widths[0], norm_num_groups, add_attention)
        self.up_blocks = levels.blocks(CausalUpBlock, norm_num_groups)

    def blocks(self) -> Sequence[nn.Module]:
        return [self.mid_block, *self.up_blocks]
