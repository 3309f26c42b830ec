"""Stage: grid alignment, GAP3D's own: queries and grid transformer, the language model frozen.

    accelerate launch -m train.grid_alignment --config train/configs/mini/grid_alignment.yaml

Target: the image encoder's layer-normalised tokens of the asset's canonical view. Loss
0.4 patches + 0.3 class + 0.3 registers, condition dropped with probability 0.1 (spec/gap3d 4). Prompts: captions,
pictures with edit instructions (target: the edited asset), pictures to be kept as they are. An edit leaves most tokens
nearly as they are (mean cosine 0.98 between source and target), so those that it changes count more.
"""

from pathlib import Path

import torch
from torch import Tensor

from gap3d_app.flow.sampler import FlowSampler
from gap3d_app.models.checkpoint import load_model, save_model
from gap3d_app.models.gap3d_objective import GridObjective
from gap3d_app.models.grid_dit import GridDiT
from gap3d_app.models.image_encoder import ImageEncoder
from gap3d_app.models.prompt_tokenizer import PromptTokenizer
from gap3d_app.models.token_grid import GridState, pack_grid, unpack_grid
from gap3d_app.render.pictures import token_basis, token_picture
from train.data.packed import PackedAssets
from train.data.prompts import PromptBank, stack_rows
from train.image_encoder import augment
from train.loop import Stage, compile_modules, read_config, run, training_device
from train.samples import save_sheet
from train.stress import stress

KINDS = {"caption": 0.4, "picture": 0.6}
TESTED = {"caption": 0.4, "edit": 0.4, "unchanged": 0.2}

CHANGE = 0.2
"""Mean squared difference of a token's channels (of unit variance) from which on it counts as changed altogether."""


class GridAlignmentStage(Stage):
    """Queries and GridDiT; gradients reach the queries through the frozen language model."""

    trained = ("dit", "vlm")

    def __init__(
        self, model: dict, data: str, test: str, parts: dict, objective: dict, stress: float, views: int, device: str
    ):
        super().__init__()
        self.stress = stress
        self.dit = GridDiT.from_args(**model)
        self.vlm = load_model(parts["prompt_encoder"], device=device).freeze_language_model()
        self.vlm.tokenizer = PromptTokenizer.from_file(parts["tokenizer"], self.vlm.config)
        self.objective = GridObjective(**objective)
        self.side = model["input_size"]
        self.data = PackedAssets(data, device, views=views)
        self.test = PackedAssets(test, device, views=views)
        encoder = load_model(parts["image_encoder"], device=device).eval()
        self.targets, self.test_targets = (self._encode(encoder, part) for part in (self.data, self.test))
        self.bank = PromptBank(self.data, self.vlm.tokenizer)
        self.test_bank = PromptBank(self.test, self.vlm.tokenizer)

    @torch.no_grad()
    def _encode(self, encoder: ImageEncoder, data: PackedAssets) -> Tensor:
        """Tokens [A, N, C] float16 of the canonical view of every asset."""
        made = []
        for ids in torch.arange(len(data), device=data.device).split(256):
            with torch.autocast(data.device.type, torch.bfloat16, enabled=data.device.type == "cuda"):
                made.append(encoder.encode(data.images(ids, 0)).half())
        return torch.cat(made)

    def next_batch(self, batch_size: int, generator: torch.Generator) -> dict:
        """Prompts of every kind and the target tokens of all of them, in the same order."""
        return self._batch(self.data, self.bank, self.targets, KINDS, batch_size, generator)

    def _batch(
        self, data: PackedAssets, bank: PromptBank, tokens: Tensor, kinds: dict[str, float], batch_size: int,
        generator: torch.Generator,
    ) -> dict:  # fmt: skip
        counts, rows, images, sources, targets = {}, [], [], [], []
        for kind, share in kinds.items():
            count = counts[kind] = max(1, round(share * batch_size))
            ids, lengths, source, target = bank.draw(kind, count, generator)
            rows.append(bank.with_queries(ids, lengths))
            if kind != "caption":
                images.append(source)
            sources.append(source)
            targets.append(target)
        seen = torch.cat(images)
        view = torch.randint(data.views.shape[1], seen.shape, generator=generator, device=generator.device)
        pixels = self.vlm.patches(augment(data.images(seen, view), generator)[0])
        ids, target = stack_rows(rows, self.vlm.config.pad_token_id), tokens[torch.cat(targets)].float()
        apart = (tokens[torch.cat(sources)].float() - target).square().mean(-1, keepdim=True)
        draws = self.objective.draw(unpack_grid(target, self.side, self.side), generator)
        return {"counts": counts, "ids": ids, "pixels": pixels, "tokens": target, "draws": draws,
                "stress": stress(apart, CHANGE, self.stress)}  # fmt: skip

    def forward(self, batch: dict) -> tuple[Tensor, dict[str, Tensor]]:
        """The three-part loss."""
        target = unpack_grid(batch["tokens"], self.side, self.side)
        cond = self.vlm.encode(batch["ids"], pixel_values=batch["pixels"])
        factors = unpack_grid(batch["stress"], self.side, self.side)
        losses = self.objective(self.dit, target, cond, batch["draws"], stress=factors)
        return losses["loss"], {k: v.detach() for k, v in losses.items() if k != "loss"}

    def draw(self, folder: Path, step: int) -> dict[str, float]:
        """Held-out mean patch cosine per kind of prompt (20 steps, guidance 3); grids beside their targets."""
        generator = torch.Generator(self.test.device).manual_seed(0)
        count = min(256, 2 * len(self.test))
        batch = self._batch(self.test, self.test_bank, self.test_targets, TESTED, count, generator)
        cond = self.vlm.encode(batch["ids"], pixel_values=batch["pixels"]).float()
        noise = torch.randn(batch["tokens"].shape, generator=generator, device=cond.device)
        noise = unpack_grid(noise, self.side, self.side)
        sampler = FlowSampler.with_scale(3.0, steps=20, integer_timesteps=True, batch_guidance=True)

        def velocity(state: GridState, t: Tensor, c: Tensor) -> GridState:
            return GridState(*self.dit(*state, c, t))

        patches = self.side**2
        made = pack_grid(*sampler_sample(sampler, velocity, noise, cond))
        cosine = torch.cosine_similarity(made[:, -patches:], batch["tokens"][:, -patches:], dim=-1).mean(1)
        scores, images, start = {}, [], 0
        for kind, count in batch["counts"].items():
            scores[f"test_cosine_{kind}"] = float(cosine[start : start + count].mean())
            for target, result in zip(batch["tokens"][start : start + 4], made[start : start + count], strict=False):
                basis = token_basis(target[-self.side**2 :])
                images += [token_picture(grid, basis=basis) for grid in (target, result)]
            start += count
        save_sheet(folder, step, images, columns=8)
        return scores

    def compile_parts(self) -> None:
        """Layers of the grid transformer and of the language model."""
        compile_modules((*self.dit.model.layers, *self.vlm.model.layers, *self.vlm.visual.blocks))

    def save_models(self, folder: Path) -> None:
        """`grid_dit` and `prompt_encoder` with its trained queries."""
        save_model(self.dit, folder / "grid_dit")
        save_model(self.vlm, folder / "prompt_encoder")


def sampler_sample(sampler: FlowSampler, velocity, noise: GridState, cond: Tensor) -> GridState:
    """Sample with a plain-tuple state, which is what the sampler carries."""
    state = sampler.sample(
        lambda s, t, c: tuple(velocity(GridState(*s), t, c)), tuple(noise), cond, torch.zeros_like(cond)
    )
    return GridState(*state)


def main() -> None:
    """Command line of the stage."""
    config, loop, out = read_config(__doc__)
    device = training_device()
    settings = {k: config[k] for k in ("parts", "objective", "stress", "views")}
    stage = GridAlignmentStage(config["model"], **config["data"], **settings, device=device)
    run(stage, loop, out)


if __name__ == "__main__":
    main()
