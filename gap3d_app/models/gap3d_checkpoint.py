"""GAP3D checkpoint directories: which tensor belongs to which network (spec gap3d.md 10).

A released checkpoint holds everything under one root. Qwen's part comes in two layouts, before transformers 4.52
(``model.layers``, ``visual``) and after (``model.language_model.layers``, ``model.visual``); plain Qwen2.5-VL
checkpoints use the same two.
"""

import torch
from torch import Tensor

from gap3d_app.models.image_encoder import from_torch_hub

DIT_PREFIX = "model.dit."
TOWER_PREFIX = "model.gen_vision_tower.vision_tower."


def split_checkpoint(state: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors by network: 'prompt_encoder', 'grid_dit' and, if present, 'image_encoder', under their own names.

    A leading ``module.`` goes; ``lm_head.weight`` is a copy of the embedding and is left out.
    """
    parts: dict[str, dict[str, Tensor]] = {"prompt_encoder": {}, "grid_dit": {}, "image_encoder": {}}
    for key, value in state.items():
        key = key.removeprefix("module.")
        if key == "lm_head.weight":
            continue
        if key.startswith(DIT_PREFIX):
            parts["grid_dit"][key.removeprefix(DIT_PREFIX)] = value
        elif key.startswith(TOWER_PREFIX):
            parts["image_encoder"][key.removeprefix(TOWER_PREFIX)] = value
        else:
            key = key.replace("model.language_model.", "model.", 1).replace("model.visual.", "visual.", 1)
            parts["prompt_encoder"][key] = value
    parts["image_encoder"] = from_torch_hub(parts["image_encoder"])
    return {name: part for name, part in parts.items() if part}


def extend_vocabulary(embedding: Tensor, known: int = 151665, added: int = 3) -> Tensor:
    """Plain Qwen embedding ``[V, D]`` to GAP3D's ``[known + added, D]``: new rows are the mean of the known ones."""
    mean = embedding[:known].float().mean(dim=0, keepdim=True).to(embedding.dtype)
    return torch.cat([embedding[:known], mean.expand(added, -1)])
