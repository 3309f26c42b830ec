"""The probe: a small convolutional network that says what it sees on renders of an asset.

It judges generated assets in `train.eval.mini`. It shares nothing with the models under test: other data
type (pictures), own weights, trained on renders of real training assets only (`train.probe`).
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

PROBE_SIZE = 112


@dataclass
class ProbeConfig:
    """Width of the first level and the names of the classes of each head."""

    width: int = 32
    categories: list[str] = field(default_factory=list)
    colors: list[str] = field(default_factory=list)
    finishes: list[str] = field(default_factory=list)

    def heads(self) -> dict[str, list[str]]:
        """Head name to class names."""
        return {"category": self.categories, "color": self.colors, "finish": self.finishes}


class _Block(nn.Module):
    """Residual pair of 3x3 convolutions; halves the side when `stride` is 2."""

    def __init__(self, cin: int, cout: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(8, cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(8, cout)
        self.skip = nn.Conv2d(cin, cout, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + self.skip(x))


class Probe(nn.Module):
    """Views [B, 3, H, W] in 0..1 (premultiplied on black) -> logits per head."""

    def __init__(self, config: ProbeConfig):
        super().__init__()
        self.config = config
        w = config.width
        self.stem = nn.Conv2d(3, w, 5, 2, 2)
        self.body = nn.Sequential(
            _Block(w, w, 1), _Block(w, 2 * w, 2), _Block(2 * w, 4 * w, 2), _Block(4 * w, 8 * w, 2)
        )
        self.heads = nn.ModuleDict({k: nn.Linear(8 * w, len(v)) for k, v in config.heads().items()})

    def forward(self, views: Tensor) -> dict[str, Tensor]:
        """Logits [B, classes] of every head."""
        if views.shape[-1] != PROBE_SIZE:
            views = F.interpolate(views, size=(PROBE_SIZE,) * 2, mode="area")
        h = self.body(self.stem(views * 2 - 1)).mean((2, 3))
        return {k: head(h) for k, head in self.heads.items()}

    @torch.no_grad()
    def judge(self, views: Tensor) -> dict[str, str]:
        """Class names for one asset seen from several views [V, 3, H, W]: mean log-probability over views."""
        names = self.config.heads()
        logits = self.forward(views)
        return {k: names[k][int(F.log_softmax(v, 1).mean(0).argmax())] for k, v in logits.items()}

    def save(self, stem: Path) -> None:
        """Write `<stem>.json` and `<stem>.safetensors` (half precision)."""
        stem.parent.mkdir(parents=True, exist_ok=True)
        stem.with_suffix(".json").write_text(json.dumps(asdict(self.config)))
        save_file({k: v.half().contiguous() for k, v in self.state_dict().items()}, stem.with_suffix(".safetensors"))

    @staticmethod
    def load(stem: Path, device: str = "cpu") -> "Probe":
        """Read what `save` wrote."""
        probe = Probe(ProbeConfig(**json.loads(stem.with_suffix(".json").read_text())))
        state = load_file(stem.with_suffix(".safetensors"))
        probe.load_state_dict({k: v.float() for k, v in state.items()})
        return probe.to(device).eval()
