"""A tokenizer made on the spot, so that no test needs a download."""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<pad>", "<s>", "</s>", "<image>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>"]
SPECIAL += ["<|eot_id|>", "<|vision_start|>", "<|vision_end|>", "<start_of_turn>", "<end_of_turn>"]

VICUNA = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ m.content[0].text }} {% elif m.role == 'user' %}USER: "
    "{% for c in m.content %}{% if c.type == 'image' %}<image>\n{% else %}{{ c.text }}{% endif %}{% endfor %} "
    "{% else %}ASSISTANT: {{ m.content[0].text }}</s>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
MISTRAL = (
    "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {% for c in m.content %}{% if c.type == 'image' %}"
    "<image>\n{% else %}{{ c.text }}{% endif %}{% endfor %} [/INST]"
    "{% else %} {{ m.content[0].text }}</s>{% endif %}{% endfor %}"
)
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n{% endif %}{% for m in messages %}"
    "<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}<|vision_start|><image><|vision_end|>"
    "{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3 = (
    "<s>{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
GEMMA = (
    "<s>{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
TEMPLATES = {"vicuna": VICUNA, "mistral": MISTRAL, "chatml": CHATML, "llama3": LLAMA3, "gemma": GEMMA}


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, and the special tokens of many templates."""
    characters = sorted({chr(code) for code in range(32, 127)} | {"\n"})
    vocabulary = {token: number for number, token in enumerate([*SPECIAL, "<unk>", *characters])}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.add_special_tokens({"additional_special_tokens": SPECIAL[3:]})
    return made


def processor(template: str | None) -> SimpleNamespace:
    """What a processor is to gridprune: a tokenizer and a chat template."""
    words = tokenizer()

    def apply_chat_template(conversation, **arguments):
        return words.apply_chat_template(conversation, chat_template=template, **arguments)

    return SimpleNamespace(tokenizer=words, chat_template=template, apply_chat_template=apply_chat_template)
