"""Sizes of the GridDiT (spec gap3d.md 3.1)."""

from dataclasses import asdict, dataclass, field

from torch import Tensor


@dataclass
class GridDiTConfig:
    """Sizes of a GridDiT under the released constructor names.

    `ffn_dim` is the feed-forward width; left at None it follows the released rule, int(8/3 dim) rounded up to
    `multiple_of` (4864 at full size; library versions disagree, so a loader takes it from the tensor).
    `input_size` is the side of the square grid used for sampling; the network takes any height and width.
    The last four fields name released options that have one supported value.
    """

    input_size: int = 37
    in_channels: int = 1024
    dim: int = 1792
    n_layers: int = 24
    n_heads: int = 28
    n_kv_heads: int | None = None
    ffn_dim: int | None = None
    multiple_of: int = 256
    norm_eps: float = 1e-5
    latent_embedding_size: int = 2048
    num_register_tokens: int = 4
    patch_size: int = 1
    qk_norm: bool = True
    learn_sigma: bool = False
    ffn_dim_multiplier: float | None = None
    summary_token_dim: int | None = None
    modulation_dim: int = field(init=False)

    def __post_init__(self) -> None:
        if (self.patch_size, self.qk_norm, self.learn_sigma) != (1, True, False):
            raise ValueError("GridDiT supports patch_size 1, qk_norm true and learn_sigma false only")
        if self.ffn_dim_multiplier is not None or self.summary_token_dim is not None:
            raise ValueError("GridDiT supports neither ffn_dim_multiplier nor summary_token_dim")
        self.n_kv_heads = self.n_kv_heads or self.n_heads
        if self.dim % (4 * self.n_heads) or self.n_heads % self.n_kv_heads:
            raise ValueError("dim must divide into heads of a multiple of 4, heads into key/value heads")
        if self.ffn_dim is None:
            inner = int(2 * (4 * self.dim) / 3)
            self.ffn_dim = -(-inner // self.multiple_of) * self.multiple_of
        self.modulation_dim = min(self.dim, 1024)

    @property
    def head_dim(self) -> int:
        return self.dim // self.n_heads

    def to_args(self) -> dict:
        """Constructor arguments as plain JSON values."""
        args = asdict(self)
        args.pop("modulation_dim")
        return args

    @classmethod
    def from_state_dict(cls, state: dict[str, Tensor], input_size: int = 37) -> "GridDiTConfig":
        """Sizes read from tensor shapes (keys start with ``model.``); the release stores no config.

        Raises:
            KeyError: a tensor is missing.
            ValueError: one has another shape; named with what was expected and found.
        """
        def sizes(key: str, *expected: str) -> tuple[int, ...]:
            found = tuple(state[key].shape)
            if len(found) != len(expected) or 0 in found:
                raise ValueError(f"{key!r} has shape {list(found)}, expected [{', '.join(expected)}]")
            return found

        dim, in_channels = sizes("model.patch_embedder.proj.weight", "width", "channels")
        (heads,) = sizes("model.layers.0.gate", "heads")
        if dim % (4 * heads):
            raise ValueError(
                f"'model.layers.0.gate' has shape {[heads]}, expected heads of a multiple of 4 channels in {dim}"
            )
        layers = {key.split(".")[2] for key in state if key.startswith("model.layers.")}
        return cls(
            input_size=input_size,
            in_channels=in_channels,
            dim=dim,
            n_layers=len(layers),
            n_heads=heads,
            n_kv_heads=max(1, sizes("model.layers.0.attn1.to_k.weight", "keys", "width")[0] * heads // dim),
            ffn_dim=sizes("model.layers.0.feed_forward.linear_1.weight", "hidden", "width")[0],
            latent_embedding_size=sizes("model.caption_projection.linear_1.weight", "width", "latent")[1],
            num_register_tokens=sizes("model.reg_roles", "1", "registers", "width")[1],
        )
