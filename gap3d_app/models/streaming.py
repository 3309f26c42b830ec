"""Networks filled from safetensors files one tensor at a time.

A checkpoint of many gigabytes is never in host memory as a whole: the network is built on the meta device (shapes
without memory), the headers of all files are compared with it, and then every tensor goes from its file straight
to the device and dtype where it stays. Files are open one at a time, so the host holds at most one mapped shard
and one tensor.

A `StoredTensor` knows a shape and where its numbers lie. It can be cut along its first axis, which is what turning
torch.hub's fused qkv into three matrices needs, and joined with others, which is what replacing a single row of an
embedding needs; neither reads anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gap3d_app.errors import WeightsError
from gap3d_app.nn.torso import TorsoModule

INDEX_ENDING = ".safetensors.index.json"


@dataclass(frozen=True)
class Piece:
    """Rows first..last (last excluded) of a tensor in a file; all of it, of whatever rank, when first is None."""

    file: Path
    key: str
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of `shape` that lies in one or several pieces, one above the other along the first axis."""

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]

    def rows(self, first: int, last: int) -> StoredTensor:
        """Rows first..last (last excluded) of a tensor that lies in one piece."""
        (piece,) = self.pieces
        start = piece.first or 0
        cut = Piece(piece.file, piece.key, start + first, start + last)
        return StoredTensor((last - first, *self.shape[1:]), (cut,))

    def chunk(self, count: int) -> list[StoredTensor]:
        """`count` equal parts along the first axis, as `Tensor.chunk` gives them."""
        size = self.shape[0] // count
        return [self.rows(size * i, size * (i + 1)) for i in range(count)]


def joined(parts: list[StoredTensor]) -> StoredTensor:
    """Tensors of equal shape behind the first axis, one above the other."""
    length = sum(part.shape[0] for part in parts)
    return StoredTensor((length, *parts[0].shape[1:]), tuple(piece for part in parts for piece in part.pieces))


Stored = Mapping[str, StoredTensor]


def checkpoint_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder in the layout of the Hugging Face libraries.

    `model.safetensors`, else what `model.safetensors.index.json` names, else `model-*-of-*.safetensors`, else
    the only safetensors file (gap3d.md 10.2).

    Raises:
        WeightsError: there is none, there are several, a shard is missing, or the index is damaged.
    """
    single, index = folder / "model.safetensors", folder / ("model" + INDEX_ENDING)
    if single.is_file():
        return [single]
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            files = [folder / Path(name).name for name in sorted(names)]
            if not files:
                raise ValueError("it names no file")
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            raise WeightsError(f"The weight index {index.name!r} of {folder.name!r} is damaged: {error}.") from None
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise WeightsError(f"The shard {missing[0]!r} of {folder.name!r} is missing; get the folder again.")
        return files
    files = sorted(folder.glob("model-*-of-*.safetensors"))
    if not files and len(files := sorted(folder.glob("*.safetensors"))) > 1:
        names = ", ".join(file.name for file in files[:3])
        raise WeightsError(
            f"The folder {folder.name!r} holds several safetensors files ({names}) and no index that says which of "
            "them make the model; name the right one model.safetensors."
        )
    if not files:
        raise WeightsError(f"The folder {folder.name!r} holds no safetensors file (pickled ones are not read).")
    return files


def stored_tensors(files: list[Path]) -> dict[str, StoredTensor]:
    """Every tensor of the files, by name, from the headers alone.

    Raises:
        WeightsError: a file is missing or damaged.
    """
    found = {}
    for file in files:
        with _opened(file, "cpu") as content:
            for key in content.keys():
                found[key] = StoredTensor(tuple(content.get_slice(key).get_shape()), (Piece(file, key),))
    return found


def load_streamed(
    build: Callable[[], nn.Module],
    tensors: Stored,
    device: str | torch.device,
    dtype: torch.dtype | None = None,
    name: str = "checkpoint",
) -> nn.Module:
    """Build a network without memory and fill it; evaluation mode, no gradients.

    Args:
        build: makes the network; called on the meta device.
        tensors: what it is filled with, by its own state-dict keys.
        device: where the weights go.
        dtype: dtype of the large matrices: a TRELLIS network's torso (trellis.md 2.7), all floating-point values
            of another. None leaves what the network was built with (float32).
        name: what messages call the weights.

    Raises:
        WeightsError: a key is missing or too many, a shape differs (named with both), or a file is damaged.
    """
    with torch.device("meta"):
        model = build()
    require_fit({key: tuple(value.shape) for key, value in model.state_dict().items()}, tensors, name)
    if dtype is not None:
        model.to_torso_dtype(dtype) if isinstance(model, TorsoModule) else model.to(dtype)
    fill(model, tensors, device)
    return model.eval().requires_grad_(False)


def require_fit(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, StoredTensor], name: str) -> None:
    """Compare names and shapes.

    Raises:
        WeightsError: the first difference: the key, and for a shape what was expected and what was found.
    """
    for key in expected:
        if key not in found:
            raise WeightsError(f"The weights {name!r} lack {key!r}, expected with shape {list(expected[key])}.")
    for key, tensor in found.items():
        if key not in expected:
            raise WeightsError(f"The weights {name!r} have the unknown {key!r} with shape {list(tensor.shape)}.")
        if tuple(tensor.shape) != tuple(expected[key]):
            raise WeightsError(
                f"The weights {name!r} have another shape for {key!r}: expected {list(expected[key])}, "
                f"found {list(tensor.shape)}."
            )


@torch.no_grad()
def fill(model: nn.Module, tensors: Stored, device: str | torch.device) -> None:
    """Replace a network's values on the meta device by those of files, in the dtypes that it has there.

    Raises:
        WeightsError: a file is damaged, or holds whole numbers for floating-point values.
    """
    wanted = model.state_dict()
    by_file: dict[Path, list[tuple[str, Piece, int]]] = {}
    for key, tensor in tensors.items():
        offset = 0
        for piece in tensor.pieces:
            by_file.setdefault(piece.file, []).append((key, piece, offset))
            offset += 0 if piece.first is None else piece.last - piece.first
    for file, reads in by_file.items():
        with _opened(file, str(device)) as content:
            for key, piece, offset in reads:
                value = _read(content, piece)
                if wanted[key].dtype.is_floating_point and not value.dtype.is_floating_point:
                    raise WeightsError(
                        f"The weight file {file.name!r} holds {key!r} as {str(value.dtype).removeprefix('torch.')}, "
                        "expected floating-point values; quantised weights are not read."
                    )
                value = value.to(wanted[key].dtype)
                if len(tensors[key].pieces) > 1:
                    if wanted[key].is_meta:
                        wanted[key] = torch.empty(wanted[key].shape, dtype=value.dtype, device=device)
                    wanted[key][offset : offset + len(value)] = value
                    value = wanted[key]
                _assign(model, key, value)


def _read(content: safe_open, piece: Piece) -> Tensor:
    try:
        if piece.first is None:
            return content.get_tensor(piece.key)
        # A copy: a slice of a mapped file would keep the whole of it.
        return content.get_slice(piece.key)[piece.first : piece.last].clone()
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"The weight file {piece.file.name!r} is damaged at {piece.key!r}: {error}.") from None


def _assign(model: nn.Module, key: str, value: Tensor) -> None:
    path, _, last = key.rpartition(".")
    module = model.get_submodule(path)
    if last in module._parameters:
        module._parameters[last] = nn.Parameter(value, requires_grad=False)
    else:
        module._buffers[last] = value


def _opened(file: Path, device: str) -> safe_open:
    try:
        return safe_open(file, framework="pt", device=device)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"The weight file {file.name!r} cannot be read: {error}.") from None
