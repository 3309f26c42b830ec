"""What this machine can run, and why not: memory, graphics card, torch build, optional packages, weights.

The memory that a setup needs is an estimate: the bytes of its weights and a working set. Nothing is downloaded and
nothing is loaded.
"""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Any

from gap3d_app import __version__, hub
from gap3d_app.estimate import cores
from gap3d_app.modes import LARGEST_WHOLE, LOW_VRAM, WORKING_SET
from gap3d_app.sources import catalog, store
from gap3d_app.sources.catalog import human

PACKAGES = {
    "spconv": "sparse convolutions on CUDA; without it the app's own are used",
    "nvdiffrast": "mesh rendering on CUDA (research licence); without it the app's own renderer is used",
    "gsplat": "Gaussian rendering on CUDA; without it the app's own renderer is used",
    "onnxruntime": "background removal by U2-Net; without it plain backgrounds only",
    "huggingface_hub": "downloads; without it copy weights by hand",
    "gradio": "the page",
}
"""Packages that add something, and what."""

GAP3D_BYTES = 2_730_000_000
"""Transformer, queries and one row in bfloat16 (gap3d.md 10.4)."""

CPU_WORKING_SET = 6_000_000_000
MINI_BYTES = 2_000_000_000
"""What gap3d-mini takes of the host's memory, torch and mesh tools included."""


@dataclass(frozen=True)
class Setup:
    """One way to use the app: a name, what it makes, the catalog's names that it needs, further bytes."""

    name: str
    makes: str
    needs: tuple[str, ...]
    more: int = 0
    own_checkpoint: bool = False


SETUPS = (
    Setup("image-large", "image to 3D, full size", ("trellis-image-large", "dinov2")),
    Setup("text-base", "text to 3D, TRELLIS base", ("trellis-text-base", "trellis-image-large", "clip")),
    Setup("text-large", "text to 3D, TRELLIS large", ("trellis-text-large", "trellis-image-large", "clip")),
    Setup("text-xlarge", "text to 3D, TRELLIS xlarge", ("trellis-text-xlarge", "trellis-image-large", "clip")),
    Setup("gap3d", "text, or text and picture, to 3D through GAP3D, full size",
          ("trellis-image-large", "dinov2", "qwen"), GAP3D_BYTES, own_checkpoint=True),
)  # fmt: skip


def examine() -> dict[str, Any]:
    """Look at the machine; plain values for JSON."""
    found = {"app": __version__, "machine": _machine(), "torch": _torch(), "packages": _packages(), "weights": {}}
    found["weights"] = {name: "here" for name in hub.embedded_names()}
    for entry in catalog.SOURCES:
        missing = store.missing_files(entry)
        part = f"{len(missing)} of {len(entry.files)} files missing"
        found["weights"][entry.name] = "here" if not missing else "absent" if store.find(entry.repo) is None else part
    found["setups"] = [_mini(found), *(_judge(setup, found) for setup in SETUPS)]
    return found


def report(found: dict[str, Any]) -> str:
    """The findings for people."""
    machine, torch = found["machine"], found["torch"]
    lines = [
        f"gap3d {found['app']}, Python {machine['python']}, {machine['system']}",
        f"processor: {machine['cores']} cores, memory {_size(machine['memory'])}, "
        f"{_size(machine['memory_free'])} free; disk {_size(machine['disk_free'])} free for weights",
    ]
    if torch["error"]:
        lines.append(f"torch: {torch['error']}")
    else:
        build = f"built for CUDA {torch['cuda_build']}" if torch["cuda_build"] else "built for the CPU only"
        lines.append(f"torch {torch['version']}, {build}")
        cards = [f"{card['name']}, {_size(card['memory'])}, {_size(card['free'])} free" for card in torch["devices"]]
        lines += [f"graphics card: {card}" for card in cards] or [f"graphics card: none ({torch['why_no_gpu']})"]
    lines += ["", "packages"]
    for name, entry in found["packages"].items():
        lines.append(f"  {name:16}{entry['version'] or 'not installed':16}{entry['for']}")
    lines += ["", "weights"]
    lines += [f"  {name:22}{state}" for name, state in found["weights"].items()]
    lines += ["", "what runs here"]
    for setup in found["setups"]:
        lines.append(f"  {setup['name']:14}{setup['runs']:9}{setup['makes']}")
        lines += [f"                 {reason}" for reason in setup["why"]]
    return "\n".join(lines)


def _size(number: int | None) -> str:
    return "unknown" if number is None else human(number)


def _machine() -> dict[str, Any]:
    memory, free = _memory()
    folder = store.cache_dir()
    while not folder.exists():
        folder = folder.parent
    return {
        "python": platform.python_version(), "system": f"{platform.system()} {platform.machine()}", "cores": cores(),
        "memory": memory, "memory_free": free, "disk_free": shutil.disk_usage(folder).free,
    }  # fmt: skip


def _memory() -> tuple[int | None, int | None]:
    """Bytes of the host's memory, all and free; a container's own limit counts."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        values = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
        total, free = values["MemTotal"], values["MemAvailable"]
    except (OSError, KeyError, ValueError, IndexError):
        try:
            return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), None
        except (AttributeError, ValueError, OSError):
            return None, None
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text())  # "max" when there is none
        used = int((group / "memory.current").read_text())
        return min(total, limit), min(free, max(0, limit - used))
    except (OSError, ValueError):
        return total, free


def _torch() -> dict[str, Any]:
    found: dict[str, Any] = {"version": None, "cuda_build": None, "devices": [], "why_no_gpu": None, "error": None}
    try:
        import torch
    except (ImportError, OSError) as error:
        return {**found, "error": f"cannot be imported ({error}); install it with pip install torch"}
    found |= {"version": torch.__version__, "cuda_build": torch.version.cuda}
    if not torch.cuda.is_available():
        driver = shutil.which("nvidia-smi") is not None
        if torch.version.cuda is None:
            found["why_no_gpu"] = "torch is built for the CPU only" + ("; install a CUDA build" if driver else "")
        else:
            found["why_no_gpu"] = "torch finds no usable device" if driver else "no NVIDIA driver was found"
        return found
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        found["devices"].append({"name": name, "memory": total, "free": free,
                                 "capability": list(torch.cuda.get_device_capability(index))})  # fmt: skip
    return found


def _packages() -> dict[str, dict[str, str | None]]:
    found = {}
    for name, purpose in PACKAGES.items():
        version = None
        if util.find_spec(name) is not None:
            try:
                version = metadata.version(name)
            except metadata.PackageNotFoundError:  # spconv's builds carry the CUDA version in their name
                version = "installed"
        found[name] = {"version": version, "for": purpose}
    return found


def _mini(found: dict[str, Any]) -> dict[str, Any]:
    """The embedded model: any machine with some memory."""
    why = []
    if not found["weights"].get("gap3d-mini"):
        why.append("the folder weights/gap3d-mini is missing; get the repository again")
    if found["torch"]["error"]:
        why.append("torch " + found["torch"]["error"])
    free = found["machine"]["memory_free"]
    if free is not None and free < MINI_BYTES:
        why.append(f"needs about {human(MINI_BYTES)} of memory, {human(free)} are free")
    makes = "text, a picture, or both, to 3D, embedded model"
    return {"name": "gap3d-mini", "makes": makes, "runs": "no" if why else "yes", "why": why, "bytes": MINI_BYTES}


def _judge(setup: Setup, found: dict[str, Any]) -> dict[str, Any]:
    """Whether a full-size setup runs, with every reason.

    "yes" and "low-vram" on the graphics card, "slowly" on the CPU, or "no".
    """
    entries = [catalog.source(name) for name in setup.needs]
    weights = sum(entry.size for entry in entries) + setup.more
    why, torch, machine = [], found["torch"], found["machine"]
    for entry in entries:
        state = found["weights"][entry.name]
        if state != "here":
            missing = "are missing" if state == "absent" else f"are incomplete ({state})"
            pull = f"python -m gap3d_app weights pull {entry.name}"
            why.append(f"the weights {entry.name} ({human(entry.size)}) {missing}: {pull}")
    if torch["error"]:
        why.append("torch " + torch["error"])
    needed = weights + WORKING_SET
    card = max((card["memory"] for card in torch["devices"]), default=0)
    runs = "no" if why else "yes"
    if card < needed:
        on_cpu = 2 * weights + CPU_WORKING_SET  # float32 there
        gpu = f"the graphics card has {human(card)}" if card else f"no graphics card ({torch['why_no_gpu']})"
        reason = f"needs about {human(needed)} on a graphics card: {gpu}"
        host = weights + WORKING_SET  # where networks wait for their stage
        if card >= WORKING_SET + LARGEST_WHOLE and (machine["memory"] is None or machine["memory"] >= host):
            reason += f"; it comes by in {LOW_VRAM} mode, with {human(host)} of the host's memory"
            runs = "no" if why else LOW_VRAM
        elif machine["memory"] is not None and machine["memory"] < on_cpu:
            reason += f"; the CPU would need {human(on_cpu)} of memory, there are {human(machine['memory'])}"
            runs = "no"
        else:
            reason += "; the CPU can do it, many minutes for an asset"
            runs = "no" if why else "slowly"
        why.append(reason)
    if setup.own_checkpoint:
        why.append("a GAP3D checkpoint folder of your own has to be named with --weights; none is published")
        runs = "no" if runs == "no" else "with one"
    return {"name": setup.name, "makes": setup.makes, "runs": runs, "why": why, "bytes": needed}
