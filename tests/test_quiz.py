"""Questions: every choice explained, nothing given away, no way to write half a question; and what a page remembers."""

import html.parser
import json
import shutil

import pytest
from browser import serve
from conftest import ROOT, load

from rnn2rag import quiz
from rnn2rag.authoring import book, editions

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


@pytest.mark.parametrize("source", editions.sources(ROOT), ids=lambda source: source.stem)
def test_every_section_asks(source):
    cells = load(editions.edition_path(source))["cells"]
    asking = [cell for cell in cells if "rnn2rag-quiz" in json.dumps(cell.get("outputs"))]
    assert asking
    for cell in asking:  # its source says which choice is right
        assert cell["metadata"]["jupyter"] == {"source_hidden": True} and cell["metadata"]["cellView"] == "form"


@pytest.fixture
def address(tmp_path, shown):
    """A page of two sections, with two questions and one, and the script of the book."""
    shutil.copy(ROOT / "assets" / "static" / "quiz.js", tmp_path)
    write_page(tmp_path, shown, [["First?", "Second?"], ["Third?"]])
    with serve(tmp_path) as address:
        yield f"{address}/page.html"


def write_page(folder, shown, sections):
    text = ""
    for questions in sections:
        shown.clear()
        for question in questions:
            quiz.ask(question, CHOICES, answer="`h @ W`")
        cells = "".join(f"<div>{bundle['text/html']}</div>" for bundle in shown)
        text += f"<section>{cells}<section><details><summary>More</summary></details></section></section>"
    (folder / "page.html").write_text(f'<!DOCTYPE html><script defer src="quiz.js"></script>{text}', encoding="utf8")


def opened(browser, address, script=""):
    """The page in a window of its own, as one who has never been there sees it."""
    page = browser.new_context().new_page()
    page.on("pageerror", lambda error: pytest.fail(str(error)))
    page.add_init_script(script)
    page.goto(address)
    return page


def choose(page, number, choice):
    """Open a choice of a question, or fold it in again, by the keyboard."""
    page.locator(".rnn2rag-quiz").nth(number).locator("summary", has_text=choice).press("Enter")


def scores(page):
    return page.locator(".rnn2rag-score").get_by_role("status").all_inner_texts()


def marked(page):
    answered = page.locator(".rnn2rag-question", has_text="Answered right")
    return [text.split("?")[0] for text in answered.all_inner_texts()]


KEPT = " Remembered in this browser only."


def test_a_page_remembers_what_was_answered_right_until_it_is_told_to_forget(browser, address):
    page = opened(browser, address)
    assert scores(page) == ["0 of 2 questions answered right.", "0 of 1 questions answered right."]
    assert not page.get_by_role("button").all()
    choose(page, 1, "< 1")  # wrong
    assert marked(page) == []
    for _ in range(3):  # open, fold in, open
        choose(page, 1, "h @ W")
    choose(page, 2, "h @ W")
    both = ["1 of 2 questions answered right." + KEPT, "1 of 1 questions answered right." + KEPT]
    assert (marked(page), scores(page)) == (["Second", "Third"], both)
    page.reload()
    assert (marked(page), scores(page)) == (["Second", "Third"], both)
    assert page.locator("details[open]").count() == 0

    choose(page, 1, "h @ W")
    page.get_by_role("button", name="Forget my answers").first.press("Enter")
    assert (marked(page), scores(page)) == (["Third"], ["0 of 2 questions answered right.", both[1]])
    assert page.locator("details[open]").count() == 0 and page.get_by_role("button").count() == 1
    assert page.evaluate("document.activeElement.textContent") == scores(page)[0]  # the keyboard is not lost
    page.get_by_role("button").press("Enter")
    assert page.evaluate("localStorage.length") == 0


def test_printing_answers_nothing(browser, address):
    page = opened(browser, address)
    page.evaluate("document.querySelectorAll('details').forEach((choice) => { choice.open = true; })")
    assert marked(page) == [] and page.evaluate("localStorage.length") == 0


def test_a_question_that_changed_is_a_new_one(browser, address, tmp_path, shown):
    page = opened(browser, address)
    for number in range(3):
        choose(page, number, "h @ W")
    write_page(tmp_path, shown, [["First?", "Second, said better?"], ["Third?"]])
    page.goto(f"{address}?not-from-the-cache")
    assert marked(page) == ["First", "Third"]
    choose(page, 1, "h @ W")
    names = page.evaluate("JSON.parse(localStorage.getItem('rnn2rag-quiz:/page.html'))")
    assert [name.split("?")[0] for name in names] == ["First", "Third", "Second, said better"]


@pytest.mark.parametrize("stored", ["half a [", "3", '{"a": 1}', "null", '"text"'])
def test_what_was_stored_by_others_does_no_harm(browser, address, stored):
    page = opened(browser, address, f"localStorage.setItem('rnn2rag-quiz:/page.html', {stored!r})")
    assert marked(page) == []
    choose(page, 0, "h @ W")
    assert marked(page) == ["First"] and scores(page)[0].endswith(KEPT)


CLOSED = "Object.defineProperty(window, 'localStorage', { get() { throw new DOMException('', 'SecurityError'); } });"
FULL = "Storage.prototype.setItem = () => { throw new DOMException('', 'QuotaExceededError'); };"


@pytest.mark.parametrize("script", [CLOSED, FULL])
def test_without_storage_a_page_counts_and_promises_nothing(browser, address, script):
    page = opened(browser, address, script)
    choose(page, 0, "h @ W")
    assert (marked(page), scores(page)[0]) == (["First"], "1 of 2 questions answered right.")
    page.get_by_role("button").press("Enter")
    assert (marked(page), scores(page)[0]) == ([], "0 of 2 questions answered right.")


def test_without_a_script_the_choices_still_open(browser, address):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto(address)
    choose(page, 0, "h @ W")
    assert page.get_by_text("The rows of the batch stay apart.").first.is_visible()
    assert not page.locator(".rnn2rag-score").count()


def test_pages_of_the_book_with_questions_count_them_and_no_other_page_loads_the_script(browser):
    site = book.build(ROOT).parent
    texts = {path: path.read_text(encoding="utf8") for path in site.rglob("*.html")}
    asking = [path for path, text in texts.items() if "rnn2rag-question" in text]
    assert len(asking) >= len(editions.sources(ROOT))
    assert [path for path, text in texts.items() if "quiz.js" in text] == asking
    with serve(site) as address:
        for path in asking:
            page = opened(browser, f"{address}/{path.relative_to(site).as_posix()}")
            total = sum(int(score.split()[2]) for score in scores(page))
            assert total == page.locator(".rnn2rag-quiz").count()
