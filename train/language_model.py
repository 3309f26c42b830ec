"""Stage: the language model and its vision tower, before they are frozen.

    accelerate launch -m train.language_model --config train/configs/mini/language_model.yaml

Teaches a Qwen2.5-VL-shaped model to read: the tokenizer is a byte-level BPE trained on the same texts. Prompts are in
GAP3D's layout: a caption, or a picture and an instruction that edits it or leaves it as it is. Half of the samples go
on with a description of the wanted asset, a fixed list of attributes. The other half go on with the queries, as in the
app: two heads that are thrown away tell the wanted asset's voxels and its canonical view (colours, normals, depth),
coarsely, from their states alone. Words hold neither; and in the next stage, where all but the queries is frozen, what
does not reach their states is lost. An edit that is described needs no asset that it leads to, so most of these are
known in words only: of the pairs that were built, the model would learn the outcomes by heart.
"""

from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from gap3d_app.models.checkpoint import save_model
from gap3d_app.models.prompt_tokenizer import PromptTokenizer
from gap3d_app.models.vlm import PromptEncoder
from train.data.packed import PackedAssets
from train.data.prompts import PromptBank, tokenizer_texts
from train.data.tokenizer import token_settings, train_tokenizer
from train.image_encoder import ReadOut, augment, cells_of, occupancy_loss, per_patch
from train.loop import Stage, read_config, run, training_device

KINDS = {"caption": 0.35, "picture": 0.65}
TESTED = {"caption": 0.4, "edit": 0.4, "unchanged": 0.2}
SIDE = 16  # patches of the canonical view that is told, each of 4x4 colours and 2x2 normals and depths


class Part(NamedTuple):
    """The samples of one kind of prompt.

    ids, weight, pixels: prompts with descriptions, what each token counts, and the patches of their pictures.
    asked, asked_pixels: prompts with queries, likewise; cells [B, 512, 64], view [B, 256, 64]: what these should tell.
    """

    ids: Tensor
    weight: Tensor
    pixels: Tensor | None
    asked: Tensor
    asked_pixels: Tensor | None
    cells: Tensor
    view: Tensor


class LanguageModelStage(Stage):
    """Next-token prediction on prompts and descriptions; voxels and the canonical view out of queries."""

    trained = ("vlm", "occupancy", "view")

    def __init__(
        self, model: dict, data: str, test: str, views: int, tokenizer: Path, vocabulary: int, device: str
    ):
        super().__init__()
        self.data = PackedAssets(data, device, views=views, geometry=True)
        self.test = PackedAssets(test, device, views=views, geometry=True)
        if not tokenizer.exists():
            tokenizer.parent.mkdir(parents=True, exist_ok=True)
            train_tokenizer(tokenizer_texts(self.data), vocabulary).save(str(tokenizer))
        self.tokenizer_file = tokenizer
        self._tokens = Tokenizer.from_file(str(tokenizer))
        ids = token_settings(self._tokens)
        text = {**model["text_config"], "vocab_size": ids.pop("vocab_size")}
        self.vlm = PromptEncoder.from_args(**{**model, "text_config": text, **ids})
        self.vlm.tokenizer = PromptTokenizer.from_file(tokenizer, self.vlm.config)
        self.occupancy = ReadOut(text["hidden_size"])
        self.view = ReadOut(text["hidden_size"], SIDE**2, 64)
        self.bank = PromptBank(self.data, self.vlm.tokenizer, told=True)
        self.test_bank = PromptBank(self.test, self.vlm.tokenizer)

    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """One part per kind of prompt."""
        return self._batch(self.data, self.bank, KINDS, batch_size, generator)

    def _batch(
        self, data: PackedAssets, bank: PromptBank, kinds: dict[str, float], batch_size: int, generator: torch.Generator
    ) -> dict:
        parts = {}
        for kind, share in kinds.items():
            count = max(2, round(share * batch_size))
            half = count // 2
            first = bank.draw_told(half, generator) if kind == "picture" else bank.draw(kind, half, generator)
            ids, lengths, source, answers = first
            asked_ids, asked_lengths, asked_source, wanted = bank.draw(kind, count - half, generator)
            pixels = asked_pixels = None
            if kind != "caption":
                view = torch.randint(data.views.shape[1], (count,), generator=generator, device=generator.device)
                images = augment(data.images(torch.cat([source, asked_source]), view), generator)[0]
                pixels, asked_pixels = self.vlm.patches(images[:half]), self.vlm.patches(images[half:])
            told = bank.with_answers(ids, lengths, answers)
            asked = bank.with_queries(asked_ids, asked_lengths)
            geometry = data.normals[wanted, 0].permute(0, 3, 1, 2).float() / 127
            view = torch.cat([per_patch(data.images(wanted, 0), SIDE, 4), per_patch(geometry, SIDE, 2)], 2)
            parts[kind] = Part(*told, pixels, asked, asked_pixels, cells_of(data.occupancy(wanted)), view)
        return parts

    def forward(self, batch: dict[str, Part]) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted losses; metrics per kind: description tokens predicted right, IoU of voxels, error of the view."""
        loss, metrics, total = 0.0, {}, sum(len(part.asked) for part in batch.values())
        for kind, part in batch.items():
            logits = self.vlm.lm_logits(part.ids, part.pixels)[:, :-1].float()
            target, w = part.ids[:, 1:], part.weight[:, 1:]
            ce = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(w)
            latents = self.vlm.encode(part.asked, pixel_values=part.asked_pixels)
            shape, metrics[f"iou_{kind}"] = occupancy_loss(self.occupancy(latents).float(), part.cells)
            view = F.l1_loss(self.view(latents).float(), part.view)
            loss = loss + len(part.asked) / total * ((ce * w).sum() / w.sum() + 4 * shape + 4 * view)
            right = ((logits.detach().argmax(-1) == target) & (w == 1)).sum()
            metrics[f"right_{kind}"], metrics[f"view_{kind}"] = right / (w == 1).sum(), view.detach()
        return loss, metrics

    def draw(self, folder: Path, step: int) -> dict[str, float]:
        """The held-out metrics of `forward`; some descriptions, right and as predicted."""
        generator = torch.Generator(self.test.device).manual_seed(0)
        batch = self._batch(self.test, self.test_bank, TESTED, min(512, 2 * len(self.test)), generator)
        _, metrics = self.forward(batch)
        lines = []
        for kind, (ids, weight, pixels, *_) in batch.items():
            rows = 4 if pixels is None else len(pixels) // len(ids) * 4
            guess = self.vlm.lm_logits(ids[:4], None if pixels is None else pixels[:rows]).argmax(-1)
            for row, (right, mask) in enumerate(zip(ids[:4, 1:], weight[:4, 1:] == 1, strict=True)):
                texts = (self._tokens.decode(t[mask].tolist()) for t in (right, guess[row, :-1]))
                lines += [f"{kind}\n  wanted {{}}\n  got    {{}}".format(*texts)]
        (folder / f"{step:07d}.txt").write_text("\n".join(lines) + "\n")
        return {f"test_{k}": float(v) for k, v in metrics.items()}

    def save_models(self, folder: Path) -> None:
        """`prompt_encoder`, its queries included, and the tokenizer beside it."""
        save_model(self.vlm, folder / "prompt_encoder")
        (folder / "tokenizer.json").write_text(self.tokenizer_file.read_text())


def main() -> None:
    """Command line of the stage."""
    config, loop, out = read_config(__doc__)
    device = training_device()
    stage = LanguageModelStage(
        config["model"],
        **config["data"],
        views=config["views"],
        tokenizer=out / "tokenizer.json",
        vocabulary=config["vocabulary"],
        device=device,
    )
    run(stage, loop, out)


if __name__ == "__main__":
    main()
