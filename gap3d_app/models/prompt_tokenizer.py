"""Prompt text to token ids, exactly as GAP3D was trained (spec gap3d.md 2.1, 2.2, 5.4).

Special tokens are placed by id and the user's text is tokenised by a tokenizer without special tokens, so
whatever a person types (``<|im_end|>``, ``<image>``) stays ordinary text.
"""

import json
from collections.abc import Callable
from functools import lru_cache
from itertools import chain, groupby
from pathlib import Path

import torch
from torch import Tensor

from gap3d_app.errors import InputError, WeightsError

SYSTEM_TEXT = "You are a helpful assistant."
CAPTION_PREFIX = "Please generate image based on the following caption: "
EDIT_PREFIX, EDIT_LINK = "Create a precise replica of: ", "\nbut: "
IM_START, IM_END, PAD = "<|im_start|>", "<|im_end|>", "<|endoftext|>"
VISION_START, VISION_END, IMAGE_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
IMG_START, IMG_END, QUERY = "[IMG]", "[/IMG]", "<image>"
SPECIAL_TOKENS = (PAD, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, IMG_START, IMG_END, QUERY)


class Special(str):
    """A piece of a prompt that stands for one special token, as opposed to text."""


def message(role: str, *content: str) -> list[str]:
    """Pieces of one chat message: start, role, newline, content, end, newline."""
    return [Special(IM_START), role + "\n", *content, Special(IM_END), "\n"]


def prompt_pieces(caption: str, image_tokens: int = 0) -> list[str]:
    """The whole prompt before the queries; with `image_tokens` slots the image-and-text (edit) form."""
    if image_tokens:
        image = [Special(VISION_START), *[Special(IMAGE_PAD)] * image_tokens, Special(VISION_END)]
        user = [CAPTION_PREFIX + EDIT_PREFIX, *image, EDIT_LINK + caption.rstrip()]
    else:
        user = [CAPTION_PREFIX + caption]
    return message("system", SYSTEM_TEXT) + message("user", *user) + message("assistant")


def joined_text(pieces: list[str]) -> list[str]:
    """The pieces with texts that are neighbours made one, so that tokens may span them; no empty text."""
    joined: list[str] = []
    for special, group in groupby(pieces, lambda piece: isinstance(piece, Special)):
        alike = list(group)
        joined += alike if special else ["".join(alike)]
    return [piece for piece in joined if piece]


def collate(
    prompts: list[list[int]], n_query: int, img_start_id: int, query_id: int, pad_id: int, max_length: int
) -> dict[str, Tensor]:
    """Prompts to one batch: each cut to max_length - n_query - 1 ids, then one start id and the query slots.

    Returns input_ids ``[B, T]`` int64 padded on the right, attention_mask ``[B, T]`` bool, query_start
    ``[B]`` int64.
    """
    tail = [img_start_id] + [query_id] * n_query
    rows = [prompt[: max_length - len(tail)] + tail for prompt in prompts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = torch.arange(width) < lengths[:, None]
    return {"input_ids": ids, "attention_mask": mask, "query_start": lengths - n_query}


class PromptTokenizer:
    """Byte-level BPE read from tokenizer.json, plus GAP3D's prompt layout.

    Parameters: `tokenizer_json` the file's text; `config` a `PromptEncoderConfig` for lengths and ids.
    """

    def __init__(self, tokenizer_json: str, config):
        from tokenizers import Tokenizer

        self.config = config
        data = json.loads(tokenizer_json)
        self.special_ids = {token["content"]: token["id"] for token in data["added_tokens"]}
        # A plain Qwen vocabulary lacks GAP3D's own three tokens; the config knows their ids.
        self.special_ids.setdefault(IMG_START, config.img_start_token_id)
        self.special_ids.setdefault(QUERY, config.query_token_id)
        wanted = {
            PAD: config.pad_token_id,
            IMAGE_PAD: config.image_token_id,
            IMG_START: config.img_start_token_id,
            QUERY: config.query_token_id,
        }
        for name, token_id in wanted.items():
            if self.special_ids.get(name) != token_id:
                found = self.special_ids.get(name)
                reason = f"The tokenizer gives {name} the id {found}, but the model expects {token_id}."
                raise WeightsError(reason)
        data["added_tokens"] = []
        data["post_processor"] = None
        self._plain = Tokenizer.from_str(json.dumps(data))
        # The frame around captions is the same in every prompt.
        self._recent = lru_cache(maxsize=64)(lambda text: self._plain.encode(text, add_special_tokens=False).ids)

    @classmethod
    def from_file(cls, path: str | Path, config) -> "PromptTokenizer":
        """From a tokenizer.json.

        Raises:
            WeightsError: the file is missing, is no tokenizer, or is that of another model.
        """
        path = Path(path)
        try:
            return cls(path.read_text(encoding="utf-8"), config)
        except WeightsError:
            raise
        except Exception as error:  # the library raises plain Exception for a file it cannot use
            name = f"{path.name!r} of {path.parent.name!r}"
            raise WeightsError(f"The tokenizer {name} cannot be used: {error}; get the weights again.") from None

    def text_ids(self, text: str) -> list[int]:
        """Ids of plain text; special tokens in it are text too."""
        return list(self._recent(text))

    def ids(self, pieces: list[str]) -> list[int]:
        """Ids of prompt pieces, neighbouring text joined first as in the rendered prompt."""
        return self._joined_ids(joined_text(pieces), self.text_ids)

    def many_ids(self, prompts: list[list[str]]) -> list[list[int]]:
        """`ids` of every prompt; the texts are read on all cores."""
        joined = [joined_text(pieces) for pieces in prompts]
        texts = list({piece for pieces in joined for piece in pieces if not isinstance(piece, Special)})
        read = self._plain.encode_batch(texts, add_special_tokens=False)
        table = {text: encoding.ids for text, encoding in zip(texts, read, strict=True)}
        return [self._joined_ids(pieces, table.__getitem__) for pieces in joined]

    def _joined_ids(self, pieces: list[str], text_ids: Callable[[str], list[int]]) -> list[int]:
        parts = ([self.special_ids[p]] if isinstance(p, Special) else text_ids(p) for p in pieces)
        return list(chain.from_iterable(parts))

    def decode(self, ids: list[int]) -> str:
        """Text of ids, special tokens left out."""
        special = set(self.special_ids.values())
        return self._plain.decode([i for i in ids if i not in special])

    def max_caption_tokens(self, with_image: bool = False) -> int:
        """Longest caption, in tokens, that fits before the queries."""
        config = self.config
        room = config.model_max_length - config.n_query - 1
        return room - len(self.ids(prompt_pieces("", config.image_tokens if with_image else 0)))

    def count_tokens(self, text: str) -> int:
        """Tokens that a caption takes inside the prompt."""
        return len(self.text_ids(CAPTION_PREFIX + text)) - len(self.text_ids(CAPTION_PREFIX))

    def prompt_ids(self, caption: str, with_image: bool = False, truncate: bool = False) -> list[int]:
        """Ids of one prompt before the queries.

        Raises InputError if the caption is too long, unless `truncate` (then `collate` cuts it, as the
        release did).
        """
        if not truncate:
            count, limit = self.count_tokens(caption), self.max_caption_tokens(with_image)
            if count > limit:
                words = len(caption.split())
                raise InputError(
                    f"The prompt of {words} words is too long for these weights ({count} tokens of at most {limit}); "
                    f"shorten it to about {max(1, words * limit // count)} words."
                )
        return self.ids(self.pieces(caption, with_image))

    def pieces(self, caption: str, with_image: bool = False) -> list[str]:
        """Pieces of one prompt before the queries."""
        return prompt_pieces(caption, self.config.image_tokens if with_image else 0)

    def batch(self, prompts: list[list[int]]) -> dict[str, Tensor]:
        """`collate` with the model's ids and lengths."""
        c = self.config
        return collate(
            prompts, c.n_query, c.img_start_token_id, c.query_token_id, c.pad_token_id, c.model_max_length
        )
