"""Prompts of packed assets: what stands behind them is what they lead to."""

from types import SimpleNamespace

import pytest
import torch

from gap3d_app.models.prompt_tokenizer import PromptTokenizer
from gap3d_app.models.vlm import PromptEncoderConfig
from train.data.procedural.edits import sample_edit, told_edits
from train.data.prompts import UNCHANGED, PromptBank, describe, tokenizer_texts
from train.data.tokenizer import token_settings, train_tokenizer


@pytest.fixture(scope="module")
def data() -> SimpleNamespace:
    """Two edits of four assets, with one more edit of each asset that is told only."""
    import numpy as np

    specs, pairs = [], []
    for i in range(2):
        source, target, instruction, _ = sample_edit(3, i)
        pairs.append({"source": len(specs), "target": len(specs) + 1, "instruction": instruction})
        specs += [source, target]
    told = [[(text, spec.to_dict()) for text, spec in told_edits(s, 1, np.random.default_rng(0))] for s in specs]
    captions = [[f"asset {i}", f"the {i}"] for i in range(4)]
    return SimpleNamespace(
        specs=[s.to_dict() for s in specs], pairs=pairs, told=told, captions=captions, device=torch.device("cpu")
    )


@pytest.fixture(scope="module")
def tokenizer(data) -> PromptTokenizer:
    from tokenizers import Tokenizer

    made = train_tokenizer(tokenizer_texts(data), 600).to_str()
    settings = token_settings(Tokenizer.from_str(made))
    settings.pop("vocab_size")
    return PromptTokenizer(made, PromptEncoderConfig(n_query=3, image_size=28, model_max_length=400, **settings))


def words(tokenizer: PromptTokenizer, ids: torch.Tensor, length: int) -> str:
    return tokenizer.decode(ids[:length].tolist())


def test_edits_that_are_told_only(data, tokenizer) -> None:
    bank, generator = PromptBank(data, tokenizer, told=True), torch.Generator().manual_seed(0)
    ids, lengths, source, answers = bank.draw_told(200, generator)
    told, mask = bank.with_answers(ids, lengths, answers)
    edited = 0
    for i in range(200):
        prompt = words(tokenizer, ids[i], int(lengths[i]))
        answer = words(tokenizer, told[i][mask[i] == 1], -1)
        asset = int(source[i])
        if answers[i] < 4:
            assert any(phrase in prompt for phrase in UNCHANGED) and answer == describe(data.specs[asset])
            assert answers[i] == asset
        else:
            ((text, spec),) = data.told[asset]
            assert text.rstrip() in prompt and answer == describe(spec)
            edited += 1
    assert 100 < edited < 180


def test_pairs_lead_to_assets(data, tokenizer) -> None:
    """Without the told edits there is one description an asset, and the pairs are those of the data."""
    bank, generator = PromptBank(data, tokenizer), torch.Generator().manual_seed(0)
    assert len(bank.descriptions[0]) == 4 and len(bank.pictured[0]) == 2 + len(UNCHANGED)
    ids, lengths, source, target = bank.draw("edit", 50, generator)
    for i in range(50):
        (pair,) = [p for p in data.pairs if p["source"] == source[i]]
        assert pair["target"] == target[i] and pair["instruction"] in words(tokenizer, ids[i], int(lengths[i]))
    assert set(source.tolist()) == {0, 2}
