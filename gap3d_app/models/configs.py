"""Sizes of the TRELLIS networks, with the argument names of the public configuration files.

Fields that only steer the public training code are accepted, so that a public `{"name", "args"}` file loads
as it is: `use_fp16` (here the dtype is an argument of loading), `use_checkpoint`, `pe_mode` ("ape" only).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


class Config:
    """Behaviour shared by the dataclasses below."""

    @classmethod
    def from_args(cls, args: dict[str, Any]) -> Any:
        """Build from a JSON mapping.

        Raises:
            ValueError: an argument is not known to this network.
        """
        unknown = sorted(set(args) - set(cls.__dataclass_fields__))
        if unknown:
            raise ValueError(f"{cls.__name__} has no argument {', '.join(unknown)}")
        return cls(**args)

    def to_args(self) -> dict[str, Any]:
        """The JSON mapping that `from_args` reads."""
        return asdict(self)


@dataclass
class TransformerConfig(Config):
    """Arguments common to the transformers.

    Attributes:
        resolution: voxels per axis of the input.
        model_channels: width C.
        num_blocks: transformer blocks.
        num_heads: attention heads; `model_channels // num_head_channels` when None.
        num_head_channels: channels of a head when `num_heads` is None.
        mlp_ratio: hidden size of the perceptrons over C.
    """

    resolution: int
    model_channels: int
    num_blocks: int
    num_heads: int | None = None
    num_head_channels: int | None = 64
    mlp_ratio: float = 4
    pe_mode: str = "ape"
    use_fp16: bool = False
    use_checkpoint: bool = False
    qk_rms_norm: bool = False

    def __post_init__(self) -> None:
        if self.pe_mode != "ape":
            raise ValueError(f"pe_mode {self.pe_mode!r} is not supported; no released model uses it")

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.num_heads or self.model_channels // self.num_head_channels


@dataclass
class FlowConfig(TransformerConfig):
    """Arguments common to both flows.

    Attributes:
        in_channels: latent channels of the state.
        out_channels: latent channels of the velocity.
        cond_channels: channels of the condition tokens.
        patch_size: latent voxels per token and axis.
        qk_rms_norm_cross: q/k norm in the cross-attention too.
        share_mod: one modulation layer for all blocks.
    """

    in_channels: int = 8
    out_channels: int = 8
    cond_channels: int = 1024
    patch_size: int = 2
    qk_rms_norm_cross: bool = False
    share_mod: bool = False


@dataclass
class StructureFlowConfig(FlowConfig):
    """Arguments of `SparseStructureFlowModel`."""


@dataclass
class SLatFlowConfig(FlowConfig):
    """Arguments of `SLatFlowModel`.

    Attributes:
        num_io_res_blocks: residual blocks per level and side.
        io_block_channels: width of every pooling level; None for no residual blocks (patch size 1).
        use_skip_connection: the way out joins the outputs of the way in.
    """

    num_io_res_blocks: int = 2
    io_block_channels: list[int] | None = None
    use_skip_connection: bool = True


@dataclass
class StructureVaeConfig(Config):
    """Arguments of `SparseStructureEncoder` and `SparseStructureDecoder`.

    Attributes:
        latent_channels: channels of the latent.
        channels: width of every level, from the input's side on.
        in_channels: channels of the encoder's input volume.
        out_channels: channels of the decoder's output volume.
        num_res_blocks: residual blocks per level.
        num_res_blocks_middle: residual blocks at the latent's resolution.
        norm_type: "layer" or "group", for the norm before the output layer only.
    """

    latent_channels: int
    channels: list[int]
    in_channels: int = 1
    out_channels: int = 1
    num_res_blocks: int = 2
    num_res_blocks_middle: int = 2
    norm_type: str = "layer"
    use_fp16: bool = False


@dataclass
class SLatVaeConfig(TransformerConfig):
    """Arguments common to the SLAT encoder and decoders.

    Attributes:
        in_channels: channels of the encoder's voxel features.
        latent_channels: channels of the latent.
        attn_mode: "swin" (windows, every second block shifted by half), "windowed" or "full".
        window_size: edge of a window in voxels.
        representation_config: what a decoder's output channels mean, see the decoder.
        upsample_channels: widths of the mesh decoder's two subdivision blocks; C/4 and C/8 when None.
    """

    in_channels: int = 1024
    latent_channels: int = 8
    attn_mode: str = "swin"
    window_size: int = 8
    representation_config: dict[str, Any] = field(default_factory=dict)
    upsample_channels: list[int] | None = None
