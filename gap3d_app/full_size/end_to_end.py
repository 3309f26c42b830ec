"""Text to GLB through the pipeline itself, every network of full size with random weights: seconds and memory.

Random weights make no shapes, so three things are supplied: the ids of a prompt (the tokenizer comes with the weights),
the occupied voxels in place of the structure decoder's, and the signed distances on the cells of the mesh decoder. The
networks run all the same; only these results are replaced.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gap3d_app.full_size.networks import CONFIGS, FILES, FLOW_SAMPLER, randomize, shell
from gap3d_app.geometry.cube_tables import CORNERS
from gap3d_app.memory import Residency
from gap3d_app.models.checkpoint import build_model, read_config
from gap3d_app.models.prompt_tokenizer import collate
from gap3d_app.modes import LOW_VRAM, RESIDENT
from gap3d_app.nn.torso import TorsoModule
from gap3d_app.pipeline import Gap3DPipeline
from gap3d_app.sources.assemble import GRID_SAMPLER, PRESET_SAMPLERS, PRESETS
from gap3d_app.sparse.tensor import SparseTensor

ROLES = {
    "prompt_encoder": "qwen2_5_vl_3b", "grid_dit": FILES["grid"], "image_encoder": "dinov2_reg_large",
    "structure_flow": FILES["structure"], "structure_decoder": FILES["structure_decoder"], "slat_flow": FILES["slat"],
    "slat_decoder_gs": FILES["gaussians"], "slat_decoder_rf": FILES["radiance"], "slat_decoder_mesh": FILES["mesh"],
}  # fmt: skip
"""Configuration of every network of a pipeline that can do everything."""

TEXT_ROLES = [role for role in ROLES if role not in ("image_encoder", "slat_decoder_gs", "slat_decoder_rf")]
"""Those that text to GLB takes."""

SAMPLING = {
    "grid_sampler": GRID_SAMPLER, "structure_sampler": FLOW_SAMPLER, "slat_sampler": FLOW_SAMPLER,
    "presets": PRESETS, "preset_samplers": PRESET_SAMPLERS,
}  # fmt: skip
"""Of pipeline.json: how the public checkpoints are sampled."""

WORDS = 48
"""Ids of a short prompt with the sentences around it."""

PART = "text-to-glb"
"""Name of this part of `bench --full-size`."""

VOXELS = 20216
CARDS = {RESIDENT: 16, LOW_VRAM: 6}
"""GiB of the small cards that are tried; half a GiB of them is CUDA's own."""

SUPPLIED = (
    f"random weights; supplied: {WORDS} token ids, the occupied voxels ({{voxels:,}}, a shell, a few less every run; "
    "the structure's own are replaced) and the surface's signed distances on the mesh decoder's cells; file included"
)


@dataclass
class EndToEnd:
    """Text to GLB in one way.

    Attributes:
        preset: "standard" (exact) or "fast".
        memory: mode of the run, at its end.
        way: what else there is to say.
        seconds: least wall seconds of the timed runs, prompt to file.
        first_seconds: of the first run in this way, with compilation and recording.
        stages: seconds by stage of the quickest run, "files" for texture and writing.
        allocated_gib, reserved_gib: most memory of the timed runs in tensors, and held from the device.
        networks_gib: of the weights that are on the device.
        faces: of the mesh before it was simplified.
        error: why it did not run.
    """

    preset: str
    memory: str
    way: str
    seconds: float | None = None
    first_seconds: float | None = None
    stages: dict[str, float] = field(default_factory=dict)
    allocated_gib: float | None = None
    reserved_gib: float | None = None
    networks_gib: float | None = None
    faces: int | None = None
    error: str | None = None


@dataclass(frozen=True)
class RandomPart:
    """Stands for a `sources.parts.Part`: a network with random weights in the dtypes of the public files."""

    role: str
    voxels: int

    def load(self, device: torch.device, dtype: torch.dtype | None, home: torch.device | None = None) -> nn.Module:
        """Built on the device, which draws faster than the host, then brought home."""
        torch.manual_seed(0)
        with torch.device(device):
            model = build_model(*config_of(self.role)).eval().requires_grad_(False)
        randomize(model)
        if isinstance(model, TorsoModule):
            model.to_torso_dtype(torch.float16 if dtype is not None and device.type == "cuda" else torch.float32)
        elif self.role != "image_encoder" and dtype is not None:
            model.to(dtype)
        if self.role == "prompt_encoder":
            model.tokenizer = FixedWords(model.config)
        if self.role == "structure_decoder":
            model = GivenVoxels(model, self.voxels)
        if self.role == "slat_decoder_mesh":
            model.register_forward_hook(partial(give_surface, self.voxels))
        return model.to(home or device)

    @property
    def size(self) -> int:
        """Bytes of the network on a graphics card, about."""
        with torch.device("meta"):
            model = build_model(*config_of(self.role))
        return sum(parameter.numel() for parameter in model.parameters()) * (4 if self.role == "image_encoder" else 2)


def config_of(role: str) -> tuple[str, dict[str, Any]]:
    """Class and arguments of a network."""
    return read_config(CONFIGS / ROLES[role])


class FixedWords:
    """Stands for the tokenizer: every prompt is `WORDS` ids."""

    def __init__(self, config: Any) -> None:
        self.config = config

    def prompt_ids(self, caption: str, **options: Any) -> list[int]:
        """See `PromptTokenizer`."""
        return list(range(1, 1 + WORDS))

    def batch(self, prompts: list[list[int]]) -> dict[str, Tensor]:
        """See `PromptTokenizer`."""
        c = self.config
        return collate(prompts, c.n_query, c.img_start_token_id, c.query_token_id, c.pad_token_id, c.model_max_length)


class GivenVoxels(nn.Module):
    """The structure decoder; what it finds is replaced by a shell of some voxels less every time.

    Two assets hardly ever have as many voxels: what is made anew for another length belongs to the time of a run.
    """

    def __init__(self, decoder: nn.Module, voxels: int) -> None:
        super().__init__()
        self.decoder, self.voxels, self.calls = decoder, voxels, 0

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, r, r, r] -> [B, 1, R, R, R], positive on the shell."""
        found = self.decoder(x)
        coords = shell(int(self.voxels * 0.998**self.calls), x.device, found.shape[-1])[:, 1:].long()
        self.calls += 1
        found.fill_(-1.0)[:, 0, coords[:, 0], coords[:, 1], coords[:, 2]] = 1.0
        return found


def give_surface(voxels: int, decoder: nn.Module, _: tuple, cells: SparseTensor) -> None:
    """Hook of the mesh decoder: in its result, signed distances give way to those of a ball with waves."""
    size, radius = decoder.out_resolution, (voxels / (8 * torch.pi)) ** 0.5 / decoder.config.resolution
    for number, corner in enumerate(CORNERS.tolist()):
        p = (cells.coords[:, 1:] + cells.coords.new_tensor(corner)) / size - 0.5
        waves = 0.15 / decoder.config.resolution * torch.sin(40 * p).prod(-1)
        # The extraction takes a cell off every distance (trellis.md 6.5).
        cells.feats[:, number] = p.norm(dim=-1) - radius + waves + 1 / size


def random_pipeline(device: torch.device, voxels: int = VOXELS, dtype: torch.dtype = torch.bfloat16) -> Gap3DPipeline:
    """A pipeline of all networks; none is loaded yet."""
    args = {
        **SAMPLING,
        "models": {role: RandomPart(role, voxels) for role in ROLES},
        "slat_normalization": {"mean": [0.0] * 8, "std": [1.0] * 8},
    }
    pipeline = Gap3DPipeline(Path("random"), args, "0" * 64, device, dtype)
    pipeline.memory = Residency(device)
    return pipeline


def measure_end_to_end(
    device: torch.device, runs: int = 3, voxels: int = VOXELS, say: Callable[[str], None] = lambda line: None
) -> list[EndToEnd]:
    """All ways, one after the other with the same networks.

    Args:
        runs: timed runs of each; the least counts.
        say: gets a line for every way.
    """
    pipeline, rows = random_pipeline(device, voxels), []
    for role in TEXT_ROLES:
        pipeline.part(role)
    pipeline.memory.send_home()

    def add(preset: str, way: str, count: int = runs, card: float | None = None) -> None:
        row = EndToEnd(preset, pipeline.memory.mode, way)
        with _card(device, card):
            _measure(pipeline, row, count)
        rows.append(row)
        say(_line(row))

    add("standard", "recorded, as generate does", 1)
    pipeline.flows.clear()
    pipeline.flows.compile = True
    for preset in PRESETS:
        add(preset, "compiled and recorded")
    pipeline.preload()
    add("standard", "all networks there, those for pictures too", 1)
    for role in set(ROLES) - set(TEXT_ROLES):
        del pipeline._parts[role]
    add("standard", f"on a card of {CARDS[RESIDENT]} GiB", 1, CARDS[RESIDENT])
    if pipeline.memory.mode == RESIDENT:
        pipeline.lower_memory()
    for preset in PRESETS:
        add(preset, f"on a card of {CARDS[LOW_VRAM]} GiB", min(runs, 2), CARDS[LOW_VRAM])
    return rows


def _measure(pipeline: Gap3DPipeline, row: EndToEnd, runs: int) -> None:
    """Fill in a row: a first run, then the timed ones."""
    device, best = pipeline.device, float("inf")
    with tempfile.TemporaryDirectory() as folder:
        try:
            row.first_seconds = round(_run(pipeline, row.preset, Path(folder))[0], 3)
            _reset(device)
            for _ in range(runs):
                taken, asset, files = _run(pipeline, row.preset, Path(folder))
                row.faces = len(asset.mesh.faces)
                if taken < best:
                    best, row.stages = taken, {**asset.seconds, "files": files}
                del asset
        except Exception as error:  # noqa: BLE001  whatever it is belongs in the report
            row.error = f"{type(error).__name__}: {error}".splitlines()[0][:300]
            return
    row.seconds, row.memory = round(best, 3), pipeline.memory.mode
    row.stages = {stage: round(seconds, 4) for stage, seconds in row.stages.items()}
    row.networks_gib = _gib(sum(_weights_on(device, network) for network in pipeline._parts.values()))
    if device.type == "cuda":
        row.allocated_gib = _gib(torch.cuda.max_memory_allocated(device))
        row.reserved_gib = _gib(torch.cuda.max_memory_reserved(device))


def _weights_on(device: torch.device, network: nn.Module) -> int:
    """Bytes of a network's weights on the device; what joins some of them for a product shares their memory."""
    return sum(tensor.nbytes for tensor in network.state_dict().values() if tensor.device.type == device.type)


def _run(pipeline: Gap3DPipeline, preset: str, folder: Path) -> tuple[float, Any, float]:
    """Seconds from prompt to file, the asset, seconds of the file."""
    start = time.perf_counter()
    asset = pipeline("a small red toy airplane", preset=preset, formats=["glb"])
    made = time.perf_counter()
    asset.save(folder / "asset.glb")
    end = time.perf_counter()
    return end - start, asset, end - made


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


@contextmanager
def _card(device: torch.device, gib: float | None) -> Iterator[None]:
    """Torch may take no more than what such a card has."""
    if gib is None or device.type != "cuda":
        yield
        return
    torch.cuda.empty_cache()
    number = torch.cuda.current_device() if device.index is None else device.index
    torch.cuda.set_per_process_memory_fraction((gib - 0.5) * 2**30 / torch.cuda.mem_get_info(number)[1], number)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, number)


def _gib(size: float) -> float:
    return round(size / 2**30, 2)


def _line(row: EndToEnd) -> str:
    return f"text to GLB, {row.preset}, {row.memory}, {row.way}: {row.error or f'{row.seconds} s'}"


def as_dicts(rows: list[EndToEnd]) -> list[dict[str, Any]]:
    """Plain values."""
    return [asdict(row) for row in rows]


def table(rows: list[dict[str, Any]], voxels: int = VOXELS) -> str:
    """The figures as text."""
    lines = ["", f"text to GLB, prompt to file: {SUPPLIED.format(voxels=voxels)}", ""]
    lines.append(
        f"{'preset':9} {'memory':9} {'way':44} {'s':>7} {'first':>8} {'tensors GiB':>12} {'held GiB':>9} {'weights':>9}"
    )
    for row in rows:
        head = f"{row['preset']:9} {row['memory']:9} {row['way']:44}"
        if row["error"]:
            lines.append(f"{head} {row['error']}")
            continue
        held = "".join(f" {'' if row[key] is None else row[key]:>{width}}" for key, width in (
            ("allocated_gib", 12), ("reserved_gib", 9), ("networks_gib", 9)))  # fmt: skip
        lines.append(f"{head} {row['seconds']:7.2f} {row['first_seconds']:8.1f}{held}")
        lines.append("          " + ", ".join(f"{stage} {value:.3f}" for stage, value in row["stages"].items()))
    return "\n".join(lines)
