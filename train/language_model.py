"""Stage: the language model and its vision tower, before they are frozen.

    accelerate launch -m train.language_model --config train/configs/mini/language_model.yaml

Teaches a Qwen2.5-VL-shaped model to read: the tokenizer is a byte-level BPE trained on the same texts. Prompts are in
GAP3D's layout: a caption, or a picture and an instruction that edits it or leaves it as it is. Half of the samples go
on with a description of the wanted asset, a fixed list of attributes. The other half go on with the queries, as in the
app: two heads that are thrown away tell the wanted asset's voxels and its canonical view (colours, geometry),
coarsely, from their states alone. Words hold neither; and in the next stage, where all but the queries is frozen, what
does not reach their states is lost. An edit that is described needs no asset that it leads to, so most of these are
known in words only: of the pairs that were built, the model would learn the outcomes by heart.
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
from train.data.prompts import PromptBank, stack_rows, tokenizer_texts
from train.data.tokenizer import token_settings, train_tokenizer
from train.image_encoder import ReadOut, augment, cells_of, occupancy_loss, per_patch
from train.loop import Stage, compile_modules, read_config, run, training_device
from train.stress import stress

KINDS = {"caption": 0.35, "picture": 0.65}
TESTED = {"caption": 0.4, "edit": 0.4, "unchanged": 0.2}
CHANGE = 0.1  # of voxels, colours and geometry, from which on they count as changed altogether
SIDE = 16  # patches of the canonical view that is told, each of 4x4 colours and 2x2 normals, depths and positions
VALUES = 4 * 4 * 3 + 2 * 2 * 7


class LanguageModelStage(Stage):
    """Next-token prediction on prompts and descriptions; voxels and the canonical view out of queries."""

    trained = ("vlm", "occupancy", "view")

    def __init__(
        self, model: dict, data: str, test: str, stress: float, views: int, tokenizer: Path, vocabulary: int,
        device: str,
    ):  # fmt: skip
        super().__init__()
        self.stress = stress
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
        self.view = ReadOut(text["hidden_size"], SIDE**2, VALUES)
        self.bank = PromptBank(self.data, self.vlm.tokenizer, told=True)
        self.test_bank = PromptBank(self.test, self.vlm.tokenizer)

    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """Prompts of every kind, half of them with descriptions, half with queries."""
        return self._batch(self.data, self.bank, KINDS, batch_size, generator)

    def _batch(
        self, data: PackedAssets, bank: PromptBank, kinds: dict[str, float], batch_size: int, generator: torch.Generator
    ) -> dict:
        """All prompts in one batch: a pass of its own for every kind would wait for the processor.

        Returns counts (kind -> prompts of each half), ids [2 N, T] (first those with descriptions), weight [N, T]
        (what a token of those counts), pixels (patches of the pictures in the prompts' order), cells [N, 512, 64] and
        view [N, 256, 76] (what the queries of the others should tell), and factors of both in the loss.
        """
        counts, told, asked, images, given, wanted = {}, [], [], [], [], []
        for kind, share in kinds.items():
            n = counts[kind] = max(1, round(share * batch_size / 2))
            first = bank.draw_told(n, generator) if kind == "picture" else bank.draw(kind, n, generator)
            ids, lengths, source, answers = first
            asked_ids, asked_lengths, asked_source, target = bank.draw(kind, n, generator)
            told.append(bank.with_answers(ids, lengths, answers))
            asked.append(bank.with_queries(asked_ids, asked_lengths))
            given.append(asked_source)
            wanted.append(target)
            if kind != "caption":
                images.append((source, asked_source))
        sources = torch.cat([part for half in zip(*images, strict=True) for part in half])
        view = torch.randint(data.views.shape[1], sources.shape, generator=generator, device=generator.device)
        pixels = self.vlm.patches(augment(data.images(sources, view), generator)[0])
        rows = [*(ids for ids, _ in told), *asked]
        ids = stack_rows(rows, self.vlm.config.pad_token_id)
        weight = stack_rows([weight for _, weight in told], 0.0)
        before, after = (self._appearance(data, torch.cat(part)) for part in (given, wanted))
        factors = [stress((b - a).abs(), CHANGE, self.stress) for b, a in zip(before, after, strict=True)]
        batch = {"counts": counts, "ids": ids, "weight": weight, "pixels": pixels}
        return batch | dict(zip(("cells", "view", "cells_stress", "view_stress"), (*after, *factors), strict=True))

    def _appearance(self, data: PackedAssets, assets: Tensor) -> tuple[Tensor, Tensor]:
        """What queries are to tell of assets: voxels [N, 512, 64] and canonical view [N, 256, 76]."""
        geometry = data.geometry[assets, 0].permute(0, 3, 1, 2).float() / 127
        view = torch.cat([per_patch(data.images(assets, 0), SIDE, 4), per_patch(geometry, SIDE, 2)], 2)
        return cells_of(data.occupancy(assets)), view

    def _states(self, batch: dict) -> tuple[Tensor, Tensor]:
        """Final states [N, T, C] of the prompts with descriptions, and latents [N, n_query, C] of the others."""
        ids, half = batch["ids"], len(batch["weight"])
        states = self.vlm.hidden_states(self.vlm.embed(ids, batch["pixels"]))
        return states[:half], self.vlm.latents(states[half:], ids[half:])

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """Weighted losses; metrics per kind: description tokens predicted right, IoU of voxels, error of the view."""
        states, latents = self._states(batch)
        w, counts = batch["weight"][:, 1:], list(batch["counts"].values())
        target = batch["ids"][: len(w), 1 : w.shape[1] + 1]
        logits = self.vlm.logits(states[:, : w.shape[1]]).float()
        ce = w * F.cross_entropy(logits.flatten(0, 1), target.flatten(), reduction="none").view_as(w)
        right = (logits.detach().argmax(-1) == target) & (w == 1)
        cells, views = self.occupancy(latents).float(), self.view(latents).float()
        loss, metrics = 0.0, {}
        truth = (batch[key] for key in ("cells", "view", "cells_stress", "view_stress"))
        parts = (x.split(counts) for x in (ce, w, right, cells, views, *truth))
        for kind, part in zip(batch["counts"], zip(*parts, strict=True), strict=True):
            ce, w, right, cell, view, true_cell, true_view, cell_stress, view_stress = part
            shape, metrics[f"iou_{kind}"] = occupancy_loss(cell, true_cell, cell_stress)
            apart = (view - true_view).abs()
            told = ce.sum() / w.sum() + 4 * shape + 4 * (apart * view_stress).mean()
            loss = loss + len(w) / sum(counts) * told
            metrics[f"right_{kind}"], metrics[f"view_{kind}"] = right.sum() / (w == 1).sum(), apart.detach().mean()
        return loss, metrics

    def draw(self, folder: Path, step: int) -> dict[str, float]:
        """The held-out metrics of `forward`; some descriptions, right and as predicted."""
        generator = torch.Generator(self.test.device).manual_seed(0)
        batch = self._batch(self.test, self.test_bank, TESTED, min(512, 2 * len(self.test)), generator)
        _, metrics = self.forward(batch)
        guess = self.vlm.logits(self._states(batch)[0]).argmax(-1)
        lines, start = [], 0
        for kind, count in batch["counts"].items():
            for row in range(start, start + min(4, count)):
                mask = batch["weight"][row, 1:] == 1
                pair = batch["ids"][row, 1 : len(mask) + 1], guess[row, : len(mask)]
                texts = (self._tokens.decode(ids[mask].tolist()) for ids in pair)
                lines += [f"{kind}\n  wanted {{}}\n  got    {{}}".format(*texts)]
            start += count
        (folder / f"{step:07d}.txt").write_text("\n".join(lines) + "\n")
        return {f"test_{k}": float(v) for k, v in metrics.items()}

    def compile_parts(self) -> None:
        """Layers of both towers, and the heads."""
        compile_modules((*self.vlm.model.layers, *self.vlm.visual.blocks, self.occupancy, self.view))

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
        stress=config["stress"],
        views=config["views"],
        tokenizer=out / "tokenizer.json",
        vocabulary=config["vocabulary"],
        device=device,
    )
    run(stage, loop, out)


if __name__ == "__main__":
    main()
