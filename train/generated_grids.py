"""Stage: the grids that the trained grid transformer makes of prompts, one for every training asset.

    accelerate launch -m train.generated_grids --config train/configs/mini/generated_grids.yaml

Prompts with words reach the flows through grids that are not exact; a caption leaves shape and details open, an
instruction's effect is faint, and guidance shifts the tokens. The tuning stages of both flows see these grids beside
those of real pictures. Assets that an edit leads to are prompted by picture and instruction in some cases, other assets
by a picture and words that change nothing, the rest by a caption. Settings of the sampler are the app's, but edits are
not guided (gap3d_app/models/edit_guidance.py). Writes `grids.safetensors`: "tokens" [A, 1 + R + H*W, C] float16.
"""

from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from gap3d_app.models.checkpoint import load_model
from gap3d_app.models.grid_sampling import draw_grid_noise, generate_grid, grid_sampler
from gap3d_app.models.prompt_tokenizer import PromptTokenizer
from gap3d_app.models.vlm import PromptEncoder
from train.data.packed import PackedAssets
from train.data.prompts import PromptBank
from train.loop import read_yaml, training_device

FILE = "grids.safetensors"
CAPTIONS = 3  # of an asset, of which one is drawn
PICTURES = 0.4  # share of the assets whose prompt has a picture


@torch.no_grad()
def make_grids(data: PackedAssets, parts: dict, sampler: dict, batch_size: int, seed: int, device: str) -> Tensor:
    """Tokens [A, N, C] float16 on the CPU; `parts` names prompt_encoder, grid_dit and tokenizer."""
    vlm = load_model(parts["prompt_encoder"], device=device).eval()
    dit = load_model(parts["grid_dit"], device=device).eval()
    bank = PromptBank(data, PromptTokenizer.from_file(parts["tokenizer"], vlm.config), CAPTIONS)
    generator = torch.Generator(device).manual_seed(seed)
    sampler = grid_sampler(**sampler)
    pictured = torch.rand(len(data), generator=generator, device=device) < PICTURES
    # a call has prompts with pictures or without
    groups = [(torch.nonzero(pictured == flag).squeeze(1), flag) for flag in (False, True)]
    parts = [(ids, flag) for group, flag in groups for ids in group.split(batch_size) if len(ids)]
    made = []
    for ids, flag in tqdm(parts, desc="grids"):
        prompts, pixels = (picture_prompts if flag else caption_prompts)(data, bank, vlm, ids, generator)
        noise = draw_grid_noise(dit.config, generator, len(ids), device)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled="cuda" in device):
            cond = vlm.encode(prompts, pixel_values=pixels).float()
            made.append(generate_grid(dit, cond, noise, sampler).half().cpu())
    order = torch.cat([ids for ids, _ in parts]).cpu()
    return torch.cat(made)[order.argsort()]


def caption_prompts(data: PackedAssets, bank: PromptBank, vlm: PromptEncoder, ids: Tensor, generator: torch.Generator):
    """(tokens, no pictures) of a caption of each asset."""
    row = ids * CAPTIONS + torch.randint(CAPTIONS, ids.shape, generator=generator, device=ids.device)
    return bank.with_queries(bank.captions[0][row], bank.captions[1][row]), None


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
    """Tokens [A, N, C] float16 of as many assets as the training set has.

    Raises:
        ValueError: they were made of another set.
    """
    tokens = load_file(path)["tokens"]
    if len(tokens) != assets:
        raise ValueError(f"{path} has grids of {len(tokens)} assets, the training set {assets}; make them anew")
    return tokens.to(device)


def main() -> None:
    """Command line of the stage."""
    config, out = read_yaml(__doc__)
    device = training_device()
    sampler = yaml.safe_load(Path(config["sampler"]).read_text())["grid_sampler"]["params"]
    data = PackedAssets(config["data"], device, views=config["views"])
    print(write_grids(make_grids(data, config["parts"], sampler, config["batch_size"], config["seed"], device), out))


if __name__ == "__main__":
    main()
