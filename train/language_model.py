"""Stage: the language model and its vision tower, before they are frozen.

    accelerate launch -m train.language_model --config train/configs/mini/language_model.yaml

Teaches a Qwen2.5-VL-shaped model to read: the tokenizer is a byte-level BPE trained on the same texts. Every
sample is a prompt in GAP3D's layout whose assistant turn is the description of the wanted asset: from a caption,
from a picture, or from a picture and an edit instruction. The description is a fixed list of attributes, so the
states behind the prompt have to hold them, which is all the queries of the next stage can read.
Words do not hold a shape, so where there is a picture, a head that is thrown away (that of train/image_encoder.py)
also reads the wanted asset's voxels from the states of the prompt: edits have to keep what the picture shows.
"""

from pathlib import Path

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
from train.image_encoder import OccupancyHead, augment, cells_of, occupancy_loss
from train.loop import Stage, read_config, run, training_device

KINDS = {"caption": 0.5, "edit": 0.3, "unchanged": 0.2}


class LanguageModelStage(Stage):
    """Next-token prediction on prompts and descriptions, and voxels out of pictures."""

    trained = ("vlm", "occupancy")

    def __init__(
        self, model: dict, data: str, test: str, views: int, tokenizer: Path, vocabulary: int, device: str
    ):
        super().__init__()
        self.data = PackedAssets(data, device, views=views)
        self.test = PackedAssets(test, device, views=views)
        if not tokenizer.exists():
            tokenizer.parent.mkdir(parents=True, exist_ok=True)
            train_tokenizer(tokenizer_texts(self.data), vocabulary).save(str(tokenizer))
        self.tokenizer_file = tokenizer
        self._tokens = Tokenizer.from_file(str(tokenizer))
        ids = token_settings(self._tokens)
        text = {**model["text_config"], "vocab_size": ids.pop("vocab_size")}
        self.vlm = PromptEncoder.from_args(**{**model, "text_config": text, **ids})
        self.vlm.model.latent_queries.requires_grad_(False)
        self.vlm.tokenizer = PromptTokenizer.from_file(tokenizer, self.vlm.config)
        self.occupancy = OccupancyHead(text["hidden_size"])
        self.bank = PromptBank(self.data, self.vlm.tokenizer)
        self.test_bank = PromptBank(self.test, self.vlm.tokenizer)

    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """One part per kind of prompt."""
        return self._batch(self.data, self.bank, batch_size, generator)

    def _batch(self, data: PackedAssets, bank: PromptBank, batch_size: int, generator: torch.Generator) -> dict:
        parts = {}
        for kind, share in KINDS.items():
            count = max(1, round(share * batch_size))
            ids, lengths, source, target = bank.draw(kind, count, generator)
            ids, weight = bank.with_answers(ids, lengths, target)
            pixels = None
            if kind != "caption":
                view = torch.randint(
                    data.views.shape[1], (count,), generator=generator, device=generator.device
                )
                pixels = self.vlm.patches(augment(data.images(source, view), generator)[0])
            cells = None if pixels is None else cells_of(data.occupancy(target))
            parts[kind] = (ids, weight, pixels, cells)
        return parts

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted cross-entropies; metrics per kind: description tokens predicted right, voxel IoU of pictures."""
        loss, metrics = 0.0, {}
        for kind, (ids, weight, pixels, cells) in batch.items():
            states = self.vlm.hidden_states(self.vlm.embed(ids, pixels))
            logits = self.vlm.logits(states)[:, :-1].float()
            target, w = ids[:, 1:], weight[:, 1:]
            ce = F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(w)
            loss = loss + KINDS[kind] * (ce * w).sum() / w.sum()
            if cells is not None:
                voxels = self.occupancy(states, hidden=(weight == 0) | (weight == 1)).float()  # prompts, no answers
                shape, metrics[f"iou_{kind}"] = occupancy_loss(voxels, cells)
                loss = loss + KINDS[kind] * shape
            right = ((logits.detach().argmax(-1) == target) & (w == 1)).sum()
            metrics[f"right_{kind}"] = right / (w == 1).sum()
        return loss, metrics

    def draw(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out token accuracy of the descriptions; some of them, right and as predicted."""
        generator = torch.Generator(self.test.device).manual_seed(0)
        batch = self._batch(self.test, self.test_bank, min(512, 2 * len(self.test)), generator)
        _, metrics = self.forward(batch)
        lines = []
        for kind, (ids, weight, pixels, _) in batch.items():
            rows = 4 if pixels is None else len(pixels) // len(ids) * 4
            guess = self.vlm.lm_logits(ids[:4], None if pixels is None else pixels[:rows]).argmax(-1)
            for row, (right, mask) in enumerate(zip(ids[:4, 1:], weight[:4, 1:] == 1, strict=True)):
                texts = (self._tokens.decode(t[mask].tolist()) for t in (right, guess[row, :-1]))
                lines += [f"{kind}\n  wanted {{}}\n  got    {{}}".format(*texts)]
        (folder / f"{step:07d}.txt").write_text("\n".join(lines) + "\n")
        return {f"test_{k}": float(v) for k, v in metrics.items()}

    def save_models(self, folder: Path) -> None:
        """`prompt_encoder` (its queries still untrained) and the tokenizer beside it."""
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
