"""A tokenizer of our own with a checkpoint's special tokens at their ids: every other token is a byte."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_FIRST_BYTE = 1000  # no checkpoint here has a special token between 1,000 and 1,256


def byte_tokenizer(
    specials: Mapping[str, int], named: Mapping[str, str], bos: str | None = None
) -> PreTrainedTokenizerFast:
    """Args:
    specials: the special tokens and their ids.
    named: what the tokenizer calls some of them, such as `image_token`, `eos_token` and `pad_token`.
    bos: a token that stands in front of every text.
    """
    letters = {byte: _FIRST_BYTE + i for i, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    own = Tokenizer(models.BPE({**letters, **specials}, []))
    own.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    own.decoder = decoders.ByteLevel()
    own.add_special_tokens(list(specials))
    if bos is not None:
        own.post_processor = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, specials[bos])])
    standard = {key: value for key, value in named.items() if key in ("bos_token", "eos_token", "pad_token")}
    extra = {key: value for key, value in named.items() if key not in standard}
    return PreTrainedTokenizerFast(tokenizer_object=own, **standard, extra_special_tokens=extra)
