"""The fast way through a flow network on CUDA: measured kernels and products, compiled blocks, recorded steps.

Each part is optional and gives the plain network's numbers up to rounding (tests/models/test_acceleration.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from torch import Tensor, nn

from gap3d_app.flow.graphs import GraphedFlow
from gap3d_app.kernels import triton_fits
from gap3d_app.models.grid_dit import GridDiT
from gap3d_app.models.slat_flow import SLatFlowModel, SparseResBlock3d
from gap3d_app.nn.attention import MultiHeadAttention
from gap3d_app.nn.attention_kernels import ANY_LENGTH, FIXED_LENGTHS, AttentionSize, fastest_kernel
from gap3d_app.nn.lt_products import lt_runs
from gap3d_app.nn.transformer import FeedForward, ModulatedCrossBlock

ROUNDED = {"emulate_precision_casts": True}
"""Of inductor: numbers are rounded between fused operations as they are between single ones."""

MOST_FORMS = 64
"""Of a compiled function: the flows of all weights that a page offers share it."""


def accelerated(
    flow: nn.Module, tokens: int, cond_tokens: int, graphs: bool = True, compile_blocks: bool = True
) -> Any:
    """`flow`, changed in place to compute faster, behind recorded steps if `graphs`.

    Args:
        flow: a `GridDiT`, `SparseStructureFlowModel` or `SLatFlowModel` that stays in its dtype and on its device.
        tokens: N, about the length of its sequence, for the choice of kernels.
        cond_tokens: M, length of its condition.
        graphs: record steps.
        compile_blocks: compile the blocks, which takes tens of seconds at their first step.
    """
    choose_kernels(flow, tokens, cond_tokens, compile_blocks)
    if isinstance(flow, GridDiT):
        flow.stack()
    else:
        _fuse(flow, triton_fits())
    if compile_blocks:
        # A structured latent has another length for every asset; the other sequences never change.
        flow.advance = compiled(type(flow).advance, 1 if isinstance(flow, SLatFlowModel) else None)
    return GraphedFlow(flow) if graphs else flow


def plain(flow: nn.Module) -> nn.Module:
    """Undo `accelerated` but for the kernels of attention: nothing compiled, joined or measured."""
    uncompiled(flow)
    tune_products(flow, False)
    if isinstance(flow, GridDiT):
        flow.unstack()
    else:
        _fuse(flow, False)
    return flow


def _fuse(flow: nn.Module, fused: bool) -> None:
    """Whether kernels of our own make the norms of a TRELLIS flow, together with what stands around them."""
    flow.fused = fused
    for block in flow.modules():
        if isinstance(block, ModulatedCrossBlock | SparseResBlock3d):
            block.fused = fused


def uncompiled(flow: nn.Module) -> dict[str, Any]:
    """Let a flow use the plain function again; returns the compiled one, if there was one, for `vars(flow).update`."""
    return {"advance": vars(flow).pop("advance")} if "advance" in vars(flow) else {}


@lru_cache(maxsize=8)
def compiled(advance: Callable[..., Tensor], any_length: int | None = None) -> Callable[..., Tensor]:
    """A function of a layer compiled once for all layers, and for all weights that a page offers.

    Args:
        advance: (layer, tokens, ...) -> tokens and perhaps more.
        any_length: axis of the tokens whose size may change without another compilation.
    """
    import torch._dynamo  # seconds, where nothing has been compiled yet

    # By default torch compiles a function eight times at most.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_FORMS)
    fast = torch.compile(advance, fullgraph=True, dynamic=False, options=dict(ROUNDED))
    if any_length is None:
        return fast

    def call(block: nn.Module, x: Tensor, *rest: Any) -> Any:
        for part in (x, *rest):
            if isinstance(part, Tensor) and part.shape == x.shape:
                torch._dynamo.maybe_mark_dynamic(part, any_length)
        return fast(block, x, *rest)

    return call


def choose_kernels(flow: nn.Module, tokens: int, cond_tokens: int, compiled: bool = False) -> None:
    """Set the attention kernel of every layer to the one measured fastest, for a guided step's batch.

    The large products of the TRELLIS flows are measured when they come first, where that was found to gain something.
    """
    device = next(flow.parameters()).device
    if isinstance(flow, GridDiT):
        dtype, config = flow.model.cls_embed.weight.dtype, flow.config
        within = fastest_kernel(AttentionSize(2, config.n_heads, tokens, tokens, config.head_dim, dtype), device)
        across = fastest_kernel(AttentionSize(1, config.n_heads, tokens, cond_tokens, config.head_dim, dtype), device)
        for block in flow.blocks():
            block.attn1.kernel, block.attn2.kernel = within, across
        return
    heads, channels, dtype = flow.config.heads, flow.config.model_channels // flow.config.heads, flow.torso_dtype
    # Every asset has another number of voxels.
    among = ANY_LENGTH if isinstance(flow, SLatFlowModel) else FIXED_LENGTHS
    within = fastest_kernel(AttentionSize(2, heads, tokens, tokens, channels, dtype), device, among, compiled)
    across = fastest_kernel(AttentionSize(1, heads, tokens, cond_tokens, channels, dtype), device, among, compiled)
    for layer in flow.modules():
        if isinstance(layer, MultiHeadAttention):
            layer.kernel = across if layer.cross else within
    tune_products(flow, lt_runs(device))


def tune_products(flow: nn.Module, tuned: bool) -> None:
    """Say whether self-attentions and perceptrons choose the algorithms of their products by measurement."""
    for layer in flow.modules():
        if isinstance(layer, FeedForward) or (isinstance(layer, MultiHeadAttention) and not layer.cross):
            layer.tuned = tuned
