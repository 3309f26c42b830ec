"""Half-precision placement of the public models (trellis.md section 2.7)."""

from __future__ import annotations

import torch
from torch import nn


class TorsoModule(nn.Module):
    """A network whose torso may compute in another dtype than its ends.

    Only weights of linear layers and convolutions inside the parts named in `torso` change; norms, q/k gains,
    time embedding, input and output layers and buffers stay float32.
    """

    torso: tuple[str, ...] = ("blocks",)
    torso_dtype: torch.dtype = torch.float32

    def to_torso_dtype(self, dtype: torch.dtype) -> TorsoModule:
        """Convert the torso's matrices to `dtype` in place and compute in it from now on."""
        for name in self.torso:
            for module in getattr(self, name).modules():
                # A sparse convolution keeps its tensors in a bare sub-module, hence the plain `Module`.
                if isinstance(module, nn.Linear | nn.Conv3d) or type(module) is nn.Module:
                    for key, value in module._parameters.items():
                        if value is not None:
                            module._parameters[key] = nn.Parameter(value.to(dtype), value.requires_grad)
        self.torso_dtype = dtype
        return self


def init_linear(module: nn.Module) -> None:
    """Xavier-uniform weight and zero bias for linear layers; for `Module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def init_flow(model: nn.Module) -> None:
    """Initialisation of the flow transformers (trellis.md section 2.8): they start by predicting zero."""
    model.apply(init_linear)
    for layer in (model.t_embedder.mlp[0], model.t_embedder.mlp[2]):
        nn.init.normal_(layer.weight, std=0.02)
    for name, module in model.named_modules():
        if name.endswith("adaLN_modulation"):
            nn.init.zeros_(module[-1].weight)
            nn.init.zeros_(module[-1].bias)
    nn.init.zeros_(model.out_layer.weight)
    nn.init.zeros_(model.out_layer.bias)
