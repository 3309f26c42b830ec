"""Stage: the grids that the trained grid transformer makes of prompts, two for every training asset.

    accelerate launch -m train.generated_grids --config train/configs/mini/generated_grids.yaml

Prompts with words reach the flows through grids that are not exact; a caption leaves shape and details open, an
instruction's effect is faint, and guidance shifts the tokens. The tuning stages of both flows see these grids beside
those of real pictures. The first grid of an asset is that of a caption; the second has a picture: of an asset that an
edit leads to, that of the edit's source with the instruction, of any other its own with words that change nothing.
Settings are the app's, with guidance of edits. Writes `grids.safetensors`: "tokens" [A, 2, 1 + R + H*W, C] float16.
"""

from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from gap3d_app.models.checkpoint import load_model
from gap3d_app.models.edit_guidance import EditGuidance, EditGuided
from gap3d_app.models.grid_sampling import draw_grid_noise, generate_grid, grid_sampler
from gap3d_app.models.prompt_tokenizer import PromptTokenizer
from gap3d_app.models.vlm import PromptEncoder
from train.data.packed import PackedAssets
from train.data.prompts import PromptBank
from train.loop import read_yaml, training_device

FILE = "grids.safetensors"
CAPTIONS = 3  # of an asset, of which one is drawn


@torch.no_grad()
def make_grids(data: PackedAssets, parts: dict, settings: dict, batch_size: int, seed: int, device: str) -> Tensor:
    """Tokens [A, 2, N, C] float16 on the CPU: by a caption, beside a picture.

    Args:
        parts: paths of prompt_encoder, grid_dit and tokenizer.
        settings: those of pipeline.json, of which "grid_sampler" and "edit_guidance", if there is one, are read.
    """
    vlm = load_model(parts["prompt_encoder"], device=device).eval()
    dit = load_model(parts["grid_dit"], device=device).eval()
    bank = PromptBank(data, PromptTokenizer.from_file(parts["tokenizer"], vlm.config), CAPTIONS)
    generator = torch.Generator(device).manual_seed(seed)
    sampler, guidance = grid_sampler(**settings["grid_sampler"]["params"]), EditGuidance.of(settings)

    def grids(prompts: Tensor, pixels: Tensor | None = None) -> Tensor:
        cond, guided = vlm.encode(prompts, pixel_values=pixels).float(), dit
        if pixels is not None and guidance is not None:
            kept = bank.beside_picture(guidance.words, len(prompts))
            guided = EditGuided(dit, vlm.encode(kept, pixel_values=pixels).float(), guidance)
        noise = draw_grid_noise(dit.config, generator, len(prompts), device)
        return generate_grid(guided, cond, noise, sampler).half().cpu()

    made = []
    for ids in tqdm(torch.arange(len(data), device=device).split(batch_size), desc="grids"):
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled="cuda" in device):
            captions = grids(caption_prompts(bank, ids, generator))
            pictures = grids(*picture_prompts(data, bank, vlm, ids, generator))
        made.append(torch.stack([captions, pictures], dim=1))
    return torch.cat(made)


def caption_prompts(bank: PromptBank, ids: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens of a caption of each asset."""
    row = ids * CAPTIONS + torch.randint(CAPTIONS, ids.shape, generator=generator, device=ids.device)
    return bank.with_queries(bank.captions[0][row], bank.captions[1][row])


def picture_prompts(data: PackedAssets, bank: PromptBank, vlm: PromptEncoder, ids: Tensor, generator: torch.Generator):
    """(tokens, patches) of the edit that leads to each asset, or of its own picture to be kept as it is."""
    edit_of = torch.full((len(data),), -1, device=ids.device)
    edit_of[bank.pair_target] = torch.arange(len(bank.pair_target), device=ids.device)
    tokens, lengths, source, _ = bank.beside_pictures(edit_of[ids], ids, generator)
    view = torch.randint(data.views.shape[1], ids.shape, generator=generator, device=ids.device)
    return bank.with_queries(tokens, lengths), vlm.patches(data.images(source, view))


def write_grids(tokens: Tensor, out: Path) -> Path:
    """Write the file of the stage; returns its path."""
    out.mkdir(parents=True, exist_ok=True)
    save_file({"tokens": tokens}, out / f"{FILE}.part")
    (out / f"{FILE}.part").rename(out / FILE)
    return out / FILE


def read_grids(path: Path | str, assets: int, device: str | torch.device) -> Tensor:
    """Tokens [A, 2, N, C] float16 of as many assets as the training set has: by a caption, beside a picture.

    Raises:
        ValueError: they were made of another set.
    """
    tokens = load_file(path)["tokens"]
    if tokens.ndim != 4 or len(tokens) != assets:
        raise ValueError(f"{path} has grids of {list(tokens.shape)}, the training set {assets} assets; make them anew")
    return tokens.to(device)


def main() -> None:
    """Command line of the stage."""
    config, out = read_yaml(__doc__)
    device = training_device()
    settings = yaml.safe_load(Path(config["settings"]).read_text())
    data = PackedAssets(config["data"], device, views=config["views"])
    print(write_grids(make_grids(data, config["parts"], settings, config["batch_size"], config["seed"], device), out))


if __name__ == "__main__":
    main()
