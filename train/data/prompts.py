"""Tokenised prompts of packed assets, as padded tensors on the training device.

Three kinds, all in GAP3D's own layout (spec/gap3d 2.1, 5.4): a caption; a picture with an edit instruction; a
picture with an instruction that changes nothing. Each kind can be followed by a description of the wanted
asset (language pre-training) or by the learnt queries (grid alignment).
"""

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor

from gap3d_app.models.prompt_tokenizer import IM_END, IM_START, PromptTokenizer, Special
from train.data.packed import PackedAssets

UNCHANGED = ("the same", "exactly this", "keep everything", "no changes", "just like the picture", "this one")


EDITS = 0.8
"""Share of the edits among prompts with pictures."""


def describe(spec: dict) -> str:
    """What the language model learns to answer: the attributes of an asset in a fixed order.

    Of an asset whose attributes are not known, its caption.
    """
    if "caption" in spec:
        return spec["caption"]
    parts = ", ".join(spec["parts"]) or "none"
    values = [spec["category"], spec["kind"] or "plain", spec["color"], spec["secondary"], spec["finish"]]
    return "; ".join([*values, spec["size"] or "usual", spec["style"] or "usual", parts])


def pad_rows(rows: list[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ragged id lists to ([n, T] int32 padded on the right, lengths [n])."""
    lengths = torch.tensor([len(r) for r in rows])
    ids = torch.full((len(rows), int(lengths.max())), pad, dtype=torch.int32)
    ids[torch.arange(ids.shape[1]) < lengths[:, None]] = torch.tensor(list(chain(*rows)), dtype=torch.int32)
    return ids, lengths


def stack_rows(parts: list[Tensor], value: float) -> Tensor:
    """Tensors [n, T] of several widths, one below the other, filled up on the right: [sum of n, largest T]."""
    width = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1]), value=value) for part in parts])


class PromptBank:
    """Prompts of a data set.

    captions: rows `asset * per_asset + k`; pictured, which stand beside a picture: an instruction per pair, then the
    phrases that change nothing, then, if asked for, an instruction per edit that is told only; descriptions: one row
    per asset, then one per such edit.
    """

    def __init__(self, data: PackedAssets, tokenizer: PromptTokenizer, per_asset: int = 6, told: bool = False):
        self.tokenizer, self.config = tokenizer, tokenizer.config
        self.per_asset = per_asset
        self.device = data.device
        pad = self.config.pad_token_id
        read = tokenizer.many_ids
        texts = [c[k % len(c)] for c in data.captions for k in range(per_asset)]
        self.captions = self._to_device(pad_rows(read([tokenizer.pieces(text) for text in texts]), pad))
        edits = [(asset, *edit) for asset, some in enumerate(data.told if told else []) for edit in some]
        texts = [*(p["instruction"] for p in data.pairs), *UNCHANGED, *(text for _, text, _ in edits)]
        self.pictured = self._to_device(pad_rows(read([tokenizer.pieces(text, True) for text in texts]), pad))
        specs = [*data.specs, *(spec for _, _, spec in edits)]
        answers = read([[describe(s), Special(IM_END)] for s in specs])
        self.descriptions = self._to_device(pad_rows(answers, pad))
        self.assets = len(data.specs)
        self.told_source = torch.tensor([asset for asset, _, _ in edits], device=self.device)
        self.pair_source = torch.tensor([p["source"] for p in data.pairs], device=self.device)
        self.pair_target = torch.tensor([p["target"] for p in data.pairs], device=self.device)

    def _to_device(self, rows: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return rows[0].to(self.device), rows[1].to(self.device)

    def draw(self, kind: str, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(ids [B, T], lengths [B], source assets [B], target assets [B]) of random prompts of one kind.

        Kinds: "caption", "edit", "unchanged", and "picture", of which `EDITS` are edits and the others unchanged.
        """

        def pick(n: int) -> Tensor:
            return torch.randint(n, (count,), generator=generator, device=self.device)

        if kind == "caption":
            row = pick(len(self.captions[0]))
            asset = row // self.per_asset
            return self.captions[0][row], self.captions[1][row], asset, asset
        share = {"edit": 1.0, "picture": EDITS, "unchanged": 0.0}[kind] if len(self.pair_source) else 0.0
        edited = torch.rand(count, generator=generator, device=self.device) < share
        pair, asset = pick(max(1, len(self.pair_source))), pick(self.assets)
        return self.beside_pictures(torch.where(edited, pair, -1), asset, generator)

    def draw_told(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Like `draw` of the kind "picture", but the last are rows of descriptions: most edits are told only."""
        if not len(self.told_source):
            return self.draw("picture", count, generator)
        ids, lengths, source, target = self.draw("unchanged", count, generator)
        edited = torch.rand(count, generator=generator, device=self.device) < EDITS
        told = torch.randint(len(self.told_source), (count,), generator=generator, device=self.device)
        row = len(self.pair_source) + len(UNCHANGED) + told
        return (
            torch.where(edited[:, None], self.pictured[0][row], ids),
            torch.where(edited, self.pictured[1][row], lengths),
            torch.where(edited, self.told_source[told], source),
            torch.where(edited, self.assets + told, target),
        )

    def beside_pictures(
        self, pair: Tensor, asset: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Like `draw`: the edits `pair` [B], or where it is -1 a phrase that leaves `asset` [B] as it is."""
        phrase = torch.randint(len(UNCHANGED), pair.shape, generator=generator, device=self.device)
        edited = pair >= 0
        row = torch.where(edited, pair, len(self.pair_source) + phrase)
        source, target = asset, asset
        if len(self.pair_source):
            source = torch.where(edited, self.pair_source[pair], asset)
            target = torch.where(edited, self.pair_target[pair], asset)
        return self.pictured[0][row], self.pictured[1][row], source, target

    def beside_picture(self, text: str, count: int) -> Tensor:
        """The same words beside `count` pictures: tokens with queries, like `with_queries`."""
        ids = torch.tensor(self.tokenizer.ids(self.tokenizer.pieces(text, True)), device=self.device)
        return self.with_queries(ids.expand(count, -1), torch.full((count,), len(ids), device=self.device))

    def with_queries(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Append the start id and the query slots right behind each prompt: [B, T + 1 + n_query] int64."""
        c = self.config
        width = int(lengths.max()) + 1 + c.n_query
        position = torch.arange(width, device=ids.device)[None]
        behind = position - lengths[:, None]
        ids = torch.nn.functional.pad(ids[:, :width], (0, max(0, width - ids.shape[1]))).long()
        out = torch.where(behind < 0, ids, torch.full_like(ids, c.pad_token_id))
        out = torch.where(behind == 0, torch.full_like(ids, c.img_start_token_id), out)
        slots = (behind >= 1) & (behind <= c.n_query)
        return torch.where(slots, torch.full_like(ids, c.query_token_id), out)

    def with_answers(self, ids: Tensor, lengths: Tensor, assets: Tensor) -> tuple[Tensor, Tensor]:
        """Prompts whose assistant turn holds the description of `assets`.

        Returns ids [B, T] int64 and a float mask [B, T]: 1 on the description, 0.2 on the prompt, 0 on padding.
        """
        closing = len(self.tokenizer.ids([Special(IM_END), "\n"]))
        start = lengths - closing
        answer, answer_length = self.descriptions[0][assets], self.descriptions[1][assets]
        width = int((start + answer_length).max())
        position = torch.arange(width, device=ids.device)[None]
        behind = position - start[:, None]
        ids = torch.nn.functional.pad(ids[:, :width], (0, max(0, width - ids.shape[1]))).long()
        index = behind.clamp(0, answer.shape[1] - 1)
        in_answer = (behind >= 0) & (behind < answer_length[:, None])
        pad = torch.full_like(ids, self.config.pad_token_id)
        out = torch.where(behind < 0, ids, torch.where(in_answer, answer.long().gather(1, index), pad))
        return out, torch.where(in_answer, 1.0, torch.where(behind < 0, 0.2, 0.0))


def tokenizer_texts(data: PackedAssets) -> Iterable[str]:
    """Everything that the tokenizer should see: captions, instructions, descriptions, prompt frames."""
    from gap3d_app.models.prompt_tokenizer import prompt_pieces

    yield "".join(p for p in prompt_pieces("") if not isinstance(p, Special) or p == IM_START)
    for captions, spec in zip(data.captions, data.specs, strict=True):
        yield from captions
        yield describe(spec)
    for pair in data.pairs:
        yield pair["instruction"]
    for edits in data.told:
        yield from (text for text, _ in edits)
    yield from UNCHANGED
