"""The activation of the perceptrons, and faster ways to it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gap3d_app.nn.lt_products import applies, lt_linear

_SLOPE = 2 * math.sqrt(2 / math.pi)
_CUBIC = 0.044715 * _SLOPE


class TanhGELU(nn.Module):
    """GELU in its tanh form (trellis.md section 2.5), input and output of any shape and floating dtype.

    Since (1 + tanh u) / 2 = sigmoid(2u), it equals x * sigmoid(2u). On the CPU torch's sigmoid takes a third of
    the time of its tanh, at the same rounding error; a product as large as the perceptron's would otherwise
    cost no more than its activation. Where gradients are wanted the fused function saves memory.
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or x.dtype != torch.float32 or (torch.is_grad_enabled() and x.requires_grad):
            return F.gelu(x, approximate="tanh")
        gate = x.square().mul_(_CUBIC).add_(_SLOPE).mul_(x)
        return gate.sigmoid_().mul_(x)


def linear_gelu(layer: nn.Linear, gelu: TanhGELU, x: Tensor, tuned: bool = False) -> Tensor:
    """`gelu(layer(x))`, for a layer with a bias.

    On CUDA in half precision, without gradients, the product itself applies the activation to its float32 sums: what is
    written and read between the two takes a third of the product's time. With `tuned` its algorithm is the one measured
    fastest (see `lt_products`).
    """
    if not applies(layer, x):
        return gelu(layer(x))
    if tuned:
        return lt_linear(layer, x, gelu=True)
    rows = torch.ops.aten._addmm_activation(layer.bias, x.flatten(0, -2), layer.weight.t(), use_gelu=True)
    return rows.unflatten(0, x.shape[:-1])
