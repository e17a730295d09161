"""Questions a reader asks herself: every choice, right or wrong, folds out its explanation.

Plain HTML without a script: it works in a page, in a notebook that was only opened, and from a keyboard.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape


def ask(question: str, choices: Mapping[str, str], answer: str) -> None:
    """Display a question with its choices; each opens to say whether it is right, and why.

    question, and in choices {choice: explanation}: plain text; words between backticks are set as code.
    answer: the right choice. Raises ValueError where it is not among the choices, where there is only one, or where an
    explanation is missing.
    """
    from IPython.display import display

    if answer not in choices or len(choices) < 2:
        raise ValueError(f"the question needs at least two choices, the answer {answer!r} among them")
    unexplained = [choice for choice, explanation in choices.items() if not explanation.strip()]
    if unexplained:
        raise ValueError(f"every choice needs an explanation; {unexplained[0]!r} has none")
    html = [f'<div class="rnn2rag-quiz"><p class="rnn2rag-question">{_inline(question)}</p>']
    for choice, explanation in choices.items():
        verdict = "Right." if choice == answer else "Not this one."
        html.append(
            f"<details><summary>{_inline(choice)}</summary>"
            f"<p><strong>{verdict}</strong> {_inline(explanation)}</p></details>"
        )
    plain = "\n".join([question, *(f"  - {choice}" for choice in choices)])
    display({"text/html": "".join(html) + "</div>", "text/plain": plain}, raw=True)


def _inline(text: str) -> str:
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
