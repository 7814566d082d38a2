"""Chat templates of every structure that released checkpoints have, written for the tests.

Each writes a conversation in another way: where turns begin and end, what is a token of its own and what plain words,
where images and system text go, how a tool answers, what is written in front of the answer.
"""

from __future__ import annotations

from functools import lru_cache
from types import SimpleNamespace

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from . import words

SPECIAL = ["<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<img>", "</img>", "<video>", "<unk>"]
SPECIAL += ["<|user|>", "<|assistant|>", "<|observation|>", "<|system|>", "<START>", "<END>", "<USER>", "<BOT>"]
SPECIAL += ["<start_of_image>", "<end_of_image>"]
PLAIN = ["<b>", "</b>", "<think>", "</think>", "<tool_response>", "</tool_response>"]  # added, but text

_TEXT = "{% for c in m.content %}{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}"


def _content(image: str) -> str:
    return (
        "{% for c in m.content %}{% if c.type == 'image' %}" + image + "{% elif c.type == 'video' %}<video>"
        "{% else %}{{ c.text }}{% endif %}{% endfor %}"
    )


LLAVA = (  # plain words, nothing behind an answer, images first
    "{% for m in messages %}{% if m.role != 'system' %}{{ m.role | upper }}: {% endif %}{% for c in m.content %}"
    "{% if c.type == 'image' %}<image>\n{% endif %}{% endfor %}{% for c in m.content %}{% if c.type == 'text' %}"
    "{{ c.text }} {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
HUMAN = (  # plain words with marks in front
    "{% for m in messages %}{% if m.role == 'system' %}" + _TEXT + "{% elif m.role == 'user' %}###Human: "
    "{% else %}###{{ m.role | title }}: {% endif %}{% if m.role != 'system' %}" + _content("<image>\n") + "{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}###Assistant:{% endif %}"
)
LLAMA2 = (  # system text between marks in the first user turn
    "{% for m in messages %}{% if m.role == 'system' %}{% set ns = m %}{% elif m.role == 'user' %}<s>[INST] "
    "{% if loop.index0 == 1 and messages[0].role == 'system' %}<<SYS>>\n{{ messages[0].content[0].text }}\n<</SYS>>\n\n"
    "{% endif %}" + _content("<image>\n") + " [/INST]{% else %} {{ m.content[0].text }} </s>{% endif %}{% endfor %}"
)
QWEN = (  # a default system prompt, numbered images, tools that answer in a user turn, text contents as well
    "{% set count = namespace(value=0) %}{% if messages[0].role != 'system' %}<|im_start|>system\nYou help.<|im_end|>\n"
    "{% endif %}{% for m in messages %}<|im_start|>{{ 'user' if m.role == 'tool' else m.role }}\n"
    "{% if m.role == 'tool' %}<tool_response>\n{% endif %}{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}{% set count.value = count.value + 1 %}{% if add_vision_id %}"
    "Picture {{ count.value }}: {% endif %}<|vision_start|><image><|vision_end|>{% elif c.type == 'video' %}"
    "<|vision_start|><video><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}"
    "{% if m.role == 'tool' %}\n</tool_response>{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKING = QWEN.removesuffix("{% endif %}") + "<think>\n{% endif %}"  # the answer's beginning is written as well
ONEVISION = (  # a blank behind the role, a line break in front of the words, none behind a turn
    "{% for m in messages %}<|im_start|>{{ m.role }} {% for c in m.content %}{% if c.type != 'text' %}<{{ c.type }}>"
    "{% endif %}{% endfor %}{% for c in m.content %}{% if c.type == 'text' %}\n{{ c.text }}{% endif %}{% endfor %}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IDEFICS = (  # roles in words, a token at the end of a turn only
    "<|im_start|>{% for m in messages %}{{ m.role | capitalize }}{{ ':' if m.content[0].type == 'image' else ': ' }}"
    + _content("<image>")
    + "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}Assistant:{% endif %}"
)
GEMMA = (  # <s> is written, system text goes in front of the first user's words, words are trimmed
    "<s>{% if messages[0].role == 'system' %}{% set first = messages[0].content[0].text + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ first if loop.first }}"
    "{% for c in m.content %}{% if c.type == 'image' %}<start_of_image>{% else %}{{ c.text | trim }}{% endif %}"
    "{% endfor %}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PIXTRAL = (  # system text goes in front of the last user's words
    "{% set has = messages[0].role == 'system' %}<s>{% for m in messages %}{% if m.role == 'user' %}[INST]"
    "{% if has and loop.last %}{{ messages[0].content[0].text }}\n\n{% endif %}" + _content("<image>") + "[/INST]"
    "{% elif m.role == 'assistant' %}{{ m.content[0].text }}</s>{% elif m.role == 'tool' %}[TOOL_RESULTS]"
    + _content("<image>")
    + "[/TOOL_RESULTS]{% endif %}{% endfor %}"
)
GLM = (  # a token for each role, nothing at the end of a turn
    "<s>{% for m in messages %}<|{{ 'observation' if m.role == 'tool' else m.role }}|>\n" + _content("<image>") +
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n<think>{% endif %}"
)  # fmt: skip
COHERE = (  # tokens for turn and role, roles that no other has are refused
    "<s>{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('No.') }}{% endif %}"
    "<START>{{ {'user': '<USER>', 'assistant': '<BOT>', 'system': '<|system|>'}[m.role] }}" + _content("<image>") +
    "<END>{% endfor %}{% if add_generation_prompt %}<START><BOT>{% endif %}"
)  # fmt: skip
BARE = (  # no marker in front of a user's words
    "{% for m in messages %}" + _content("<image>") + "{{ '</s>' if m.role == 'assistant' else '<|observation|>' }}"
    "{% endfor %}"
)

CHATS = {
    **words.TEMPLATES,
    "llava": LLAVA, "human": HUMAN, "llama2": LLAMA2, "qwen": QWEN, "thinking": THINKING, "onevision": ONEVISION,
    "idefics": IDEFICS, "gemma": GEMMA, "pixtral": PIXTRAL, "glm": GLM, "cohere": COHERE, "bare": BARE,
}  # fmt: skip
SHARED = ("llama2", "gemma", "pixtral")  # system text in a user turn
WITH_SYSTEM = ("vicuna", "chatml", "llama3", "llava", "human", "qwen", "onevision", "idefics", "glm", "cohere", *SHARED)
WITH_TOOLS = (
    "chatml",
    "llama3",
    "llava",
    "human",
    "qwen",
    "thinking",
    "onevision",
    "idefics",
    "gemma",
    "pixtral",
    "glm",
)


@lru_cache(maxsize=1)
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per character, the tokens of all templates, and added ones that are text."""
    special = [*words.SPECIAL, *SPECIAL]
    characters = sorted({chr(code) for code in range(32, 127)} | {"\n"})
    raw = Tokenizer(models.WordLevel({t: i for i, t in enumerate([*special, *characters])}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    raw.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )  # fmt: skip
    made.add_special_tokens({"additional_special_tokens": special[3:]})
    made.add_tokens([AddedToken(token, special=False) for token in PLAIN])
    return made


def processor(name: str | None) -> SimpleNamespace:
    """What a processor is to gridprune: a tokenizer, a chat template, names of the placeholders."""
    template = None if name is None else CHATS[name]

    def apply_chat_template(conversation, **arguments):
        return tokenizer().apply_chat_template(conversation, chat_template=template, **arguments)

    made = SimpleNamespace(
        tokenizer=tokenizer(), chat_template=template, image_token="<image>", video_token="<video>",
        apply_chat_template=apply_chat_template,
    )  # fmt: skip
    if name == "gemma":  # its placeholder stands for itself, line breaks and all
        made.image_token = "<start_of_image>"
        made.full_image_sequence = "\n\n<start_of_image><image><end_of_image>\n\n"
    return made
