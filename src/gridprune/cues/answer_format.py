"""Instructions about the form of the answer, which say nothing about the image: taken off the end of a question.

Evaluations append them ("Answer with a single word."). They are known by what they speak of, sentence by sentence from
the end: how to answer, not what to look for. Options of a multiple choice are no instructions and stay.
"""

from __future__ import annotations

import re

_ANSWER = r"(?:answer|respond|response|reply)"
_HOW = r"(?:with|using|use|in|by|as|only|briefly|directly|concisely|shortly|succinctly|step|yes|true)"
_FORM = r"(?:answers?|responses?|format|json|reasoning|best option|option(?:'s)? (?:letter|number|id|key))"
_RIGHT = r"(?:correct|right|best|appropriate|single|one|only) (?:\w+ )?(?:answer|option|choice|letter)"
_POLITE = (  # what may stand in front of a verb
    r"(?:(?:note|hint|instructions?)\s*:\s*)?(?:based on [^,]*, |even (?:when|if) [^,]*, )?"
    r"(?:(?:please|kindly|now|then|always|only|just|simply|directly|and|you (?:must|should|need to|only need to))\s+)*"
)

_ENGLISH = (
    # Answer the question using a single word. Respond only with the letter. Answer the following question.
    rf"{_POLITE}{_ANSWER}\b.*\b{_HOW}\b.*",
    rf"{_POLITE}{_ANSWER} (?:the|this)(?: following| above)?(?: multiple[- ]choice)? questions?(?: above| below)?\W*",
    # Give only the final answer. Return a JSON array. Keep the answer short. Only give the best option.
    rf"{_POLITE}(?:give|provide|return|output|write|put|enclose|keep|conclude|begin|end|limit|follow)\b"
    rf".*(?:\b{_FORM}\b|\\boxed).*",
    r"(?:please )?provide a (?:one-sentence|short|brief) caption\b.*",
    # Select the correct answer from the options above.
    rf"{_POLITE}(?:select|choose|pick)\b.*(?:{_RIGHT}|from the (?:\w+ )?(?:options|choices)).*",
    # Do not explain. Do not output anything else.
    rf"{_POLITE}(?:do not|don't|never|no)\b.*\b(?:explain|explanations?|output|respon\w+|anything|reasoning|else)\b.*",
    # Let's think step by step.
    r".*\b(?:think|reason|reasoning|solve|solution|explain|explaining)\b.*\bstep[- ]by[- ]step\b.*",
    r"(?:let's |let us |please )?think (?:about|carefully|before)\b.*",
    # If the answer is not in the document, answer 'Not answerable'.
    rf"(?:if|when|in case)\b.*,\s*(?:please |just |simply )?(?:{_ANSWER}|format)\b.*",
    # Your response must be concise. The last line of your response should be ...
    rf"(?:your|the (?:last line|format) of (?:your|the)|the final) {_ANSWER}\b.*\b(?:be|is|has|have)\b.*",
    r"your task is to answer\b.*|the (?:final|correct|best) .*\b(?:answer|option|letter)\b.* (?:must|should)\b.*",
    # Answer: The best answer is: Best option: (
    r"(?:the )?(?:(?:short|final|best|correct|right) )?(?:answer|option|choice)(?: letter)?(?: is)?\s*:?\s*\(?",
)
# Other languages: words for answering and choosing, and words for the form of an answer.
_ELSEWHERE = (
    (r"回答|作答|答案|选择", r"单词|词|短语|字母|选项|直接|简短|简洁|是或否|一步|最佳|正确"),
    (r"答え|回答|解答", r"単語|一語|文字|アルファベット|記号|選択肢|直接|簡潔|簡単|形式"),
    (r"답|고르", r"단어|문자|글자|기호|바로|간단|짧게|예 또는|직접"),
    (r"\b(?:ответь|выбери)", r"слов|фраз|букв|вариант|кратко|коротко|да или нет"),
    (r"\b(?:antworte|beantworte|wähle)", r"wort\b|wörter|satz|buchstabe|kurz|ja oder nein|option"),
    (r"\b(?:répond|choisi)", r"\bmot|phrase|lettre|option|brièvement|oui ou non"),
    (r"\b(?:respond|contest|elig|elij)", r"palabra|frase|letra|opción|brevemente|sí o no"),
)
_RULES = (*_ENGLISH, *(rf"(?=.*(?:{answering}))(?=.*(?:{form})).*" for answering, form in _ELSEWHERE))
_INSTRUCTION = re.compile(rf"\W*(?:{'|'.join(f'(?:{rule})' for rule in _RULES)})", re.IGNORECASE)

_STOP = ".!?\u3002\uff01\uff1f"  # and the full stops of Chinese and Japanese
_ASKS = re.compile("[?\uff1f]")
# A sentence: up to a full stop or the end of the line; a stop in quotes or brackets ends nothing.
_SENTENCE = re.compile(
    rf"""(?: "[^"\n]*" | “[^”\n]*” | (?<!\w)'[^'\n]*'(?!\w) | \[+[^\]\n]*\]+ | \([^)\n]*\)
           | [^\n{_STOP}] | [.!](?!\s|$) )+ [{_STOP}"'”]*""",
    re.VERBOSE,
)
# Where an instruction follows without a stop: "the sign Answer with one word."
_GLUED = re.compile(
    r"(?<=[\w.)?])\s*(?=(?:Please )?(?:Answer|Respond) (?:with|using|in|only|briefly|the question)\b"
    r"|Keep the answer\b|Answer:)"
)


def strip_format(question: str) -> str:
    """Remove answer-format instructions from the end of a question; what is left is never empty unless it was."""
    whole = question.strip()
    kept = spaced = _GLUED.sub("\n", whole)
    while (sentences := list(_SENTENCE.finditer(kept))) and kept[: sentences[-1].start()].strip():
        last = sentences[-1]
        if _ASKS.search(last[0]) or not _INSTRUCTION.fullmatch(last[0].strip()):
            break
        kept = kept[: last.start()].rstrip()
    return whole if kept == spaced else kept
