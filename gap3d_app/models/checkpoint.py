"""Model files: `<stem>.json` = {"name": class, "args": {...}} beside `<stem>.safetensors` (trellis.md 1.5).

A state dict larger than a limit is cut into `<stem>-00001-of-00003.safetensors` and so on, with the index
`<stem>.safetensors.index.json` = {"metadata": {...}, "weight_map": {key: file}} that the Hugging Face
libraries use.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from gap3d_app.errors import WeightsError
from gap3d_app.nn.torso import TorsoModule

ROW_SCALE = ".row_scale"
SMALLEST_INT8 = 1 << 14
"""Elements from which on a matrix is worth storing as int8."""


def model_class(name: str) -> type[nn.Module]:
    """The class that a config file names.

    Raises:
        WeightsError: the name is unknown.
    """
    from gap3d_app.models import decoders, slat_flow, slat_vae, structure_flow, structure_vae

    classes: dict[str, type[nn.Module]] = {
        "SparseStructureFlowModel": structure_flow.SparseStructureFlowModel,
        "SparseStructureEncoder": structure_vae.SparseStructureEncoder,
        "SparseStructureDecoder": structure_vae.SparseStructureDecoder,
        "SLatFlowModel": slat_flow.SLatFlowModel,
        "SLatEncoder": slat_vae.SLatEncoder,
        "SLatGaussianDecoder": decoders.SLatGaussianDecoder,
        "SLatRadianceFieldDecoder": decoders.SLatRadianceFieldDecoder,
        "SLatMeshDecoder": decoders.SLatMeshDecoder,
    }
    if name == "GridDiT":
        from gap3d_app.models.grid_dit import GridDiT

        return GridDiT
    if name == "PromptEncoder":
        from gap3d_app.models.vlm import PromptEncoder

        return PromptEncoder
    if name == "ImageEncoder":
        from gap3d_app.models.image_encoder import ImageEncoder

        return ImageEncoder
    # The public configuration files name the variants that manage memory while training.
    plain = name.removeprefix("Elastic")
    if plain not in classes:
        raise WeightsError(f"the model class {name!r} is unknown; known are {', '.join(sorted(classes))}")
    return classes[plain]


def read_config(stem: str | Path) -> tuple[str, dict[str, Any]]:
    """Class name and arguments from `<stem>.json`.

    Raises:
        WeightsError: the file is missing or is not of the expected form.
    """
    path = Path(f"{stem}.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return content["name"], content["args"]
    except FileNotFoundError:
        raise WeightsError(f"the model file {path.name!r} is missing from {str(path.parent)!r}") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise WeightsError(f"the model file {path.name!r} is not a model configuration ({error})") from None


def build_model(name: str, args: dict[str, Any]) -> nn.Module:
    """A freshly initialised network.

    Raises:
        WeightsError: the class or one of the arguments is unknown.
    """
    try:
        return model_class(name).from_args(**args)
    except (TypeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise WeightsError(f"the arguments of {name} cannot be used: {error}") from None


def weight_files(stem: str | Path) -> list[Path]:
    """The safetensors files of a model, one or several shards.

    Raises:
        WeightsError: they are missing or their index is damaged.
    """
    stem = Path(stem)
    single = stem.with_name(stem.name + ".safetensors")
    index = stem.with_name(stem.name + ".safetensors.index.json")
    if single.is_file():
        return [single]
    if not index.is_file():
        raise WeightsError(f"the weights {single.name!r} are missing from {str(stem.parent)!r}")
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = [stem.with_name(Path(name).name) for name in names]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"the weight index {index.name!r} is damaged ({error})") from None
    for file in files:
        if not file.is_file():
            raise WeightsError(f"the weights {file.name!r} are missing from {str(stem.parent)!r}")
    return files


def load_state(stem: str | Path, device: str | torch.device = "cpu") -> dict[str, Tensor]:
    """All tensors of a model's files.

    Raises:
        WeightsError: a file is missing or damaged.
    """
    state: dict[str, Tensor] = {}
    for file in weight_files(stem):
        try:
            with safe_open(file, framework="pt", device=str(device)) as content:
                state.update({key: content.get_tensor(key) for key in content.keys()})
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"the weights {file.name!r} are damaged ({error})") from None
    for key in [key for key in state if key.endswith(ROW_SCALE)]:
        matrix = key.removesuffix(ROW_SCALE)
        state[matrix] = state[matrix] * state.pop(key)[:, None]  # int8 times float32 is float32, in one pass
    return state


def quantized_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A matrix [M, N] as int8 [M, N] and one float32 scale a row [M]: matrix = int8 * scale within half a step."""
    scale = matrix.float().abs().amax(1).clamp(min=1e-12) / 127
    return (matrix.float() / scale[:, None]).round().to(torch.int8), scale


def load_model(
    stem: str | Path,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """Build a network without initial values and give it the weights of its files; evaluation mode.

    Args:
        stem: path without the `.json` and `.safetensors` endings.
        device: where the weights go.
        dtype: dtype of the torso's matrices (trellis.md 2.7); float32 when None, whatever the file holds.

    Raises:
        WeightsError: files are missing or damaged, or keys or shapes do not fit the configuration.
    """
    name, args = read_config(stem)
    with _NoInitialValues():
        model = build_model(name, args)
    state = load_state(stem, device)
    assign_state(model, state, Path(stem).name)
    if dtype is not None and isinstance(model, TorsoModule):
        model.to_torso_dtype(dtype)
    return model.eval()


class _NoInitialValues(TorchFunctionMode):
    """Leaves out random initial values, which a loader replaces anyway.

    The meta device would do the same, but many of its functions import torch's compiler: seconds of a cold start.
    """

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.randn:
            func = torch.empty
        elif func in (nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_):
            return kwargs["tensor"] if "tensor" in kwargs else args[0]
        elif func in (Tensor.normal_, Tensor.uniform_):
            # Zeros, not whatever lies there: a truncated normal draws again until all values are in range.
            return args[0].zero_()
        return func(*args, **kwargs)


def assign_state(model: nn.Module, state: dict[str, Tensor], name: str = "state dict") -> None:
    """Strictly replace parameters and persistent buffers; floating-point values become float32.

    Raises:
        WeightsError: keys are missing or too many, or a shape differs.
    """
    expected = model.state_dict(keep_vars=True)
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    wrong = [key for key in expected if key in state and expected[key].shape != state[key].shape]
    for kind, keys in (("lack", missing), ("have the unknown", extra), ("have another shape for", wrong)):
        if keys:
            key = keys[0]
            shapes = f" (expected {list(expected[key].shape)}, found {list(state[key].shape)})" if keys is wrong else ""
            raise WeightsError(f"the weights of {name!r} {kind} {key!r}{shapes} and {len(keys) - 1} more")
    cast = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    model.load_state_dict(cast, strict=True, assign=True)


def save_model(
    model: nn.Module,
    stem: str | Path,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 9_500_000,
    int8: bool = False,
) -> list[Path]:
    """Write `<stem>.json` and the weights.

    Args:
        model: a network with `config.to_args()`.
        stem: path without endings; the folder is made.
        dtype: storage dtype of matrices (tensors with two or more axes); others stay as they are.
        max_shard_bytes: largest size of a weight file.
        int8: store large matrices as int8 with a scale a row, under `<key>` and `<key>.row_scale`; `load_state`
            multiplies them out again.

    Returns:
        The files written.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    state = {}
    for key, value in model.state_dict().items():
        value = value.detach().cpu()
        narrow = dtype is not None and value.ndim > 1 and value.is_floating_point()
        if int8 and value.ndim == 2 and value.is_floating_point() and value.numel() >= SMALLEST_INT8:
            state[key], state[key + ROW_SCALE] = quantized_rows(value)
        else:
            state[key] = (value.to(dtype) if narrow else value).contiguous()
    config = stem.with_name(stem.name + ".json")
    content = {"name": type(model).__name__, "args": model.config.to_args()}
    config.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return [config, *_save_shards(state, stem, max_shard_bytes)]


def _save_shards(state: dict[str, Tensor], stem: Path, limit: int) -> list[Path]:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for key, value in state.items():
        # Leave room for the header: name, shape and offsets of every entry.
        cost = value.nbytes + len(key) + 120
        if shards[-1] and size + cost > limit:
            shards.append({})
            size = 0
        shards[-1][key] = value
        size += cost
    index = stem.with_name(stem.name + ".safetensors.index.json")
    for old in (index, *stem.parent.glob(f"{stem.name}-?????-of-?????.safetensors")):
        old.unlink(missing_ok=True)
    single = stem.with_name(stem.name + ".safetensors")
    if len(shards) == 1:
        save_file(shards[0], single, metadata={"format": "pt"})
        return [single]
    single.unlink(missing_ok=True)
    files, weight_map = [], {}
    for number, shard in enumerate(shards, 1):
        file = stem.with_name(f"{stem.name}-{number:05d}-of-{len(shards):05d}.safetensors")
        save_file(shard, file, metadata={"format": "pt"})
        files.append(file)
        weight_map.update(dict.fromkeys(shard, file.name))
    total = sum(value.nbytes for value in state.values())
    text = json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2)
    index.write_text(text + "\n", encoding="utf-8")
    return [*files, index]
