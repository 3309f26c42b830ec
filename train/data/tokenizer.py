"""Train the prompt tokenizer: byte-level BPE with Qwen's and GAP3D's special tokens.

    python -m train.data.tokenizer captions.txt tokenizer.json --vocab-size 4096
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from gap3d_app.models.prompt_tokenizer import (
    CAPTION_PREFIX,
    EDIT_LINK,
    EDIT_PREFIX,
    IMAGE_PAD,
    IMG_START,
    PAD,
    QUERY,
    SPECIAL_TOKENS,
    SYSTEM_TEXT,
)

# Qwen2's pre-tokenizer: contractions, letters with one leading mark, single digits, punctuation, line ends, spaces.
SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def train_tokenizer(captions: Iterable[str], vocab_size: int = 4096):
    """A `tokenizers.Tokenizer` of at most `vocab_size` entries, special tokens last, and deterministic.

    captions: training texts; the fixed words of the prompt are added, often enough to become single tokens.
    Any text can be encoded: all 256 bytes are in the alphabet. Save with ``.save(path)``.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(byte_fallback=False))
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    template = f"system\n{SYSTEM_TEXT}\nuser\n{CAPTION_PREFIX}a\nassistant\n{EDIT_PREFIX}{EDIT_LINK}"
    tokenizer.train_from_iterator([*captions, *[template] * 1000], trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    return tokenizer


def token_settings(tokenizer) -> dict[str, int]:
    """The ids that a `PromptEncoderConfig` wants, and the vocabulary's size for its `text_config`."""
    return {
        "vocab_size": tokenizer.get_vocab_size(),
        "pad_token_id": tokenizer.token_to_id(PAD),
        "image_token_id": tokenizer.token_to_id(IMAGE_PAD),
        "img_start_token_id": tokenizer.token_to_id(IMG_START),
        "query_token_id": tokenizer.token_to_id(QUERY),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("captions", type=Path, help="text file, one caption per line")
    parser.add_argument("output", type=Path, help="tokenizer.json to write")
    parser.add_argument("--vocab-size", type=int, default=4096)
    options = parser.parse_args()
    tokenizer = train_tokenizer(options.captions.read_text(encoding="utf-8").splitlines(), options.vocab_size)
    tokenizer.save(str(options.output))
    print(f"{options.output}: {tokenizer.get_vocab_size()} tokens")


if __name__ == "__main__":
    main()
