"""Questions: every choice explained, nothing given away, no way to write half a question."""

import html.parser

import pytest

from rnn2rag import quiz

CHOICES = {"`h @ W`": "The rows of the batch stay apart.", "`W @ h` < 1": "The shapes only fit by chance."}


class Details(html.parser.HTMLParser):
    """What a reader sees of each choice: folded, and opened."""

    def __init__(self, text):
        super().__init__()
        self.choices, self.tags, self._inside = [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "summary":
            self.choices.append({"summary": "", "p": ""})
        if tag in ("summary", "p"):
            self._inside = tag

    def handle_endtag(self, tag):
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data):
        if self.choices and self._inside:
            self.choices[-1][self._inside] += data


@pytest.fixture
def shown(monkeypatch):
    bundles = []
    monkeypatch.setattr("IPython.display.display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def test_each_choice_opens_to_its_own_explanation(shown):
    quiz.ask("Which one?", CHOICES, answer="`h @ W`")
    seen = Details(shown[0]["text/html"])
    assert seen.choices == [
        {"summary": "h @ W", "p": "Right. The rows of the batch stay apart."},
        {"summary": "W @ h < 1", "p": "Not this one. The shapes only fit by chance."},
    ]
    assert "script" not in seen.tags and seen.tags.count("code") == 2
    assert "open" not in shown[0]["text/html"]


def test_the_plain_text_does_not_give_the_answer_away(shown):
    quiz.ask("Which one?", CHOICES, answer="`h @ W`")
    assert shown[0]["text/plain"] == "Which one?\n  - `h @ W`\n  - `W @ h` < 1"


@pytest.mark.parametrize(
    ("choices", "answer", "message"),
    [
        (CHOICES, "h @ W", "the answer 'h @ W' among them"),
        ({"yes": "Because."}, "yes", "at least two choices"),
        ({"yes": "Because.", "no": " "}, "yes", "'no' has none"),
    ],
)
def test_half_a_question_is_refused(shown, choices, answer, message):
    with pytest.raises(ValueError, match=message):
        quiz.ask("Which one?", choices, answer)
    assert not shown
