"""Stage: the probe that judges generated assets (see train/eval/probe.py).

    accelerate launch -m train.probe --config train/configs/mini/probe.yaml

Sees single views of training assets, blurred, noised, re-lit and shifted so that it does not lean on how crisp
a render is. Most views are recoloured and then teach category and finish only, so that a category is not told by
the colours it came in; the others teach the colour. The measured accuracy on held-out assets is over all views of
an asset, as in the evaluation.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from train.data.packed import PackedAssets
from train.eval.probe import PROBE_SIZE, Probe, ProbeConfig
from train.image_encoder import augment, known_accuracy, known_cross_entropy
from train.loop import Stage, read_config, run, training_device
from train.recolor import color_maps, recolored
from train.samples import photo, save_sheet

RECOLORED = 0.7  # share of the views


def blur(images: Tensor, generator: torch.Generator) -> Tensor:
    """Half of the images, drawn anew each call, averaged over 3x3 pixels (once or twice)."""
    soft = F.avg_pool2d(images, 3, 1, 1)
    softer = F.avg_pool2d(soft, 3, 1, 1)
    draw = torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)
    return torch.where(draw < 0.5, images, torch.where(draw < 0.75, soft, softer))


class ProbeStage(Stage):
    """Cross-entropy on category, main colour and finish."""

    trained = ("probe",)

    def __init__(self, width: int, data: str, test: str, views: int, device: str):
        super().__init__()
        self.data = PackedAssets(data, device, views=views)
        self.test = PackedAssets(test, device, views=views)
        self.probe = Probe(
            ProbeConfig(width, self.data.categories, self.data.color_names, self.data.finishes)
        )

    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """Single augmented views."""
        device = generator.device
        ids = self.data.draw(batch_size, generator)
        view = torch.randint(self.data.views.shape[1], (batch_size,), generator=generator, device=device)
        images = F.interpolate(self.data.images(ids, view), size=(PROBE_SIZE,) * 2, mode="area")
        maps, changed = color_maps(batch_size, generator, RECOLORED)
        labels = self._labels(self.data, ids)
        labels["color"][changed] = -1
        return {"views": blur(augment(recolored(images, maps), generator)[0], generator), "labels": labels}

    def _labels(self, data: PackedAssets, ids: Tensor) -> dict[str, Tensor]:
        return {k: getattr(data, k)[ids].long() for k in ("category", "color", "finish")}

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Sum of the heads' cross-entropies with a little label smoothing."""
        loss, metrics = 0.0, {}
        for head, logits in self.probe(batch["views"]).items():
            target = batch["labels"][head]
            loss = loss + known_cross_entropy(logits, target, label_smoothing=0.05)
            metrics[f"acc_{head}"] = known_accuracy(logits.detach(), target)
        return loss, metrics

    def draw(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out accuracy over all views of an asset; some of them with the answers."""
        ids = torch.arange(len(self.test), device=self.test.device)
        views = self.test.views.shape[1]
        total = {k: 0.0 for k in self.probe.heads}
        for view in range(views):
            for start in range(0, len(ids), 256):
                part = ids[start : start + 256]
                for head, logits in self.probe(self.test.images(part, view)).items():
                    if start == 0 and view == 0:
                        total[head] = torch.zeros(len(ids), logits.shape[1], device=ids.device)
                    total[head][start : start + 256] += F.log_softmax(logits.float(), 1)
        labels = self._labels(self.test, ids)
        shown = [photo(image) for image in self.test.images(ids[:16], 0)]
        names = self.probe.config.heads()
        answers = zip(*([names[k][int(i)] for i in v[:16].argmax(1)] for k, v in total.items()), strict=True)
        save_sheet(folder, step, shown, [", ".join(answer) for answer in answers], 8)
        return {f"test_{k}": float(known_accuracy(v, labels[k])) for k, v in total.items()}

    def save_models(self, folder: Path) -> None:
        """`probe`."""
        self.probe.save(folder / "probe")


def main() -> None:
    """Command line of the stage."""
    config, loop, out = read_config(__doc__)
    device = training_device()
    run(ProbeStage(config["width"], **config["data"], views=config["views"], device=device), loop, out)


if __name__ == "__main__":
    main()
