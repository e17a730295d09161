"""From the book's MyST to plain Markdown: every construct, what stays as it is, and what is refused."""

import pytest
from conftest import HEADER, make_tree

from rnn2rag.authoring.markdown import Library, Page, is_text_notebook
from rnn2rag.errors import UserError

BIBLIOGRAPHY = """
@article{elman1990, author = {Elman, Jeffrey L.}, title = {Finding {S}tructure in Time}, journal = {Cognitive Science},
  year = {1990}, doi = {10.1207/s15516709cog1402_1}}
@inproceedings{two2013, author = {Pascanu, Razvan and Mikolov, Tomas}, title = {On Difficulty}, booktitle = {ICML},
  year = {2013}, url = {https://example.org/two}}
@book{three2016, author = {A, X and B, Y and C, Z}, title = {Deep Things}, publisher = {A Press}, year = {2016}}
@misc{nobody, title = {A Manual}, organization = {The Makers}, year = {2020}}
"""
RUN_BOX = "**This run:** 3 CPU-seconds"


@pytest.fixture
def page(tmp_path):
    """A page in a tree of two chapters, a plain page, a data file and a problem set."""
    tree = make_tree(tmp_path)
    (tree / "assets" / "references.bib").write_text(BIBLIOGRAPHY, encoding="utf8")
    files = {
        "chapters/01-a/here.md": HEADER + "(here)=\n# Here",
        "chapters/01-a/index.md": "# The chapter\n\n(part)=\n## A part of it\n",
        "chapters/02-b/there.md": HEADER + "(there)=\n\n# *There*, far away\n",
        "chapters/02-b/figure.png": "",
        "exercises/01-a/problems.ipynb": "{}",
        "data.csv": "",
        "data.ipynb": "",
    }
    for name, text in files.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(text, encoding="utf8")
    glued = {"loss": 1.23456, "small": 0.000123, "count": 1234567, "name": "tanh", "object": "<thing>"}
    return Page(tree / "chapters" / "01-a" / "here.md", Library.of(tree), glued, RUN_BOX)


SAME = [
    "# A heading\n\nProse with *emphasis*, **strength**, a [link](https://example.org) and $x_{t}$.",
    "$$h_t = \\tanh(W x_t)$$",
    "- a list\n  - in a list\n\n  with more of it",
    "`{ref}` and ``{cite:p}`elman1990` `` and `a` are code, {this} is not.",
    "```python\n{ref}`nowhere`\n(target)=\n% comment\n```",
    "~~~\n```{note}\n{glue:text}`nothing`\n```\n~~~",
    "````\n```\n{unknown}`role`\n```\n````",
    "A `code that\nspans` two lines.",
    "```one line of code``` and prose",
    "| a | b |\n|---|---|\n| 1 | 2 |",
    "50 % of it\n%no comment",
]


@pytest.mark.parametrize("text", SAME)
def test_plain_markdown_stays_as_it_is(page, text):
    assert page.plain(text) == text


CHANGED = {
    "note": ("```{note}\nMind {glue:text}`name`.\n```", "> **Note**\n>\n> Mind tanh."),
    "titled": (
        ":::{warning} Hot {glue:text}`count:,`\n:class: x\n\na\n\nb\n:::",
        "> **Hot 1,234,567**\n>\n>\n> a\n>\n> b",
    ),
    "tip": ("```{tip}\na\n```", "> **Tip**\n>\n> a"),
    "important": ("```{important}\na\n```", "> **Important**\n>\n> a"),
    "dropdown": ("```{dropdown} Answer\nIt is 4.\n```", "<details><summary>Answer</summary>\n\nIt is 4.\n\n</details>"),
    "dropdown with an admonition": (
        "````{dropdown} Answer\n```{note}\nSee {ref}`part`.\n```\n````",
        "<details><summary>Answer</summary>\n\n> **Note**\n>\n> See [A part of it](index.md).\n\n</details>",
    ),
    "code in an admonition": (
        "````{tip}\n```python\nx = `1`\n```\n````",
        "> **Tip**\n>\n> ```python\n> x = `1`\n> ```",
    ),
    "in a list": ("- a\n\n  ```{note}\n  b\n\n  c\n  ```\n- d", "- a\n\n  > **Note**\n  >\n  > b\n  >\n  > c\n- d"),
    "run box": ("```{run-box}\n```", f"> {RUN_BOX}"),
    "figure": (
        "```{figure} ../02-b/figure.png\n:alt: Two lines\n:width: 50%\n\nThe *caption*.\n```",
        "![Two lines](../02-b/figure.png)\n\n\nThe *caption*.",
    ),
    "figure from the top": ("```{figure} /chapters/02-b/figure.png\n```", "![](../02-b/figure.png)"),
    "math": ("```{math}\n:label: eq\nx^2\n```", "$$\nx^2\n$$"),
    "target": ("(spot)=\n## Title", "## Title"),
    "comment": ("a\n% not for readers\nb", "a\nb"),
    "glue": (
        "{glue:text}`loss` {glue:text}`loss:.2f` {glue:text}`small:.0e` {glue:text}`count:,`",
        "1.23456 1.23 1e-04 1,234,567",
    ),
    "glued text": ("{glue:text}`name` {glue:text}`name:>6`", "tanh   tanh"),
    "cite:t": ("{cite:t}`elman1990`", "[Elman (1990)](https://doi.org/10.1207/s15516709cog1402_1)"),
    "cite:p": (
        "{cite:p}`two2013, three2016`",
        "([Pascanu and Mikolov, 2013](https://example.org/two); A et al., 2016)",
    ),
    "cited maker": ("{cite:p}`nobody`", "(The Makers, 2020)"),
    "ref": ("{ref}`there`", "[*There*, far away](../02-b/there.ipynb)"),
    "ref with a text": ("{ref}`over there <there>`", "[over there](../02-b/there.ipynb)"),
    "ref across lines": ("{ref}`over\nthere <there>`", "[over\nthere](../02-b/there.ipynb)"),
    "doc": (
        "{doc}`index` {doc}`/chapters/02-b/there`",
        "[The chapter](index.md) [*There*, far away](../02-b/there.ipynb)",
    ),
    "doc with a text": ("{doc}`back <index>`", "[back](index.md)"),
    "download": (
        "{download}`the problems </exercises/01-a/problems.ipynb>`",
        "[the problems](../../exercises/01-a/problems.ipynb)",
    ),
    "download of data": ("{download}`/data.csv`", "[data.csv](../../data.csv)"),
    "code and roles": ("`{ref}` {ref}`here` `{x}`", "`{ref}` [Here](here.ipynb) `{x}`"),
    "a stray backtick": ("a ` b\n\n{glue:text}`name` c", "a ` b\n\ntanh c"),
}


@pytest.mark.parametrize(("text", "plain"), CHANGED.values(), ids=CHANGED)
def test_every_construct_becomes_plain(page, text, plain):
    assert page.plain(text) == plain


def test_the_bibliography_lists_what_the_page_cites(page):
    assert page.plain("{cite:t}`three2016` {cite:p}`elman1990,nobody` {cite:t}`elman1990`")
    assert page.plain("```{bibliography}\n:filter: docname in docnames\n```").splitlines() == [
        "- Elman (1990). Finding Structure in Time. Cognitive Science. https://doi.org/10.1207/s15516709cog1402_1",
        "- The Makers (2020). A Manual",
        "- A et al. (2016). Deep Things. A Press",
    ]


def test_a_link_does_not_depend_on_which_editions_are_made(page):
    before = page.plain("{ref}`there` {doc}`index`")
    for name in ("../02-b/there.ipynb", "index.ipynb"):
        (page.path.parent / name).write_text("{}", encoding="utf8")
    assert page.plain("{ref}`there` {doc}`index`") == before


REFUSED = {
    "```{card}\nx\n```": "the directive {card} is not one that the book uses",
    "```{eval-rst}\nx\n```": "the directive {eval-rst}",
    "````{note}\n```{tabs}\n```\n````": "the directive {tabs}",
    "{numref}`x`": "the role {numref} is not one that the book uses",
    "{sub-ref}`today`": "the role {sub-ref}",
    "```{note} Title with {eq}`x`\n```": "the role {eq}",
    "{glue:text}`never`": "{glue:text} asks for 'never', which no cell glues",
    "{glue:text}`name:.2f`": "{glue:text} cannot set 'name' as '.2f'",
    "{glue:text}`object:.2f`": "{glue:text} cannot set 'object'",
    "{cite:p}`elman1990, nobody2000`": "'nobody2000' is cited, but assets/references.bib has no such entry",
    "{ref}`nowhere`": "{ref} names 'nowhere', which no page marks",
    "{doc}`nowhere`": "a link names 'nowhere.md', which does not exist",
    "{download}`/no.csv`": "a link names '/no.csv', which does not exist",
    "```{figure} no.png\n```": "a link names 'no.png', which does not exist",
    "```python\nx = 1": "a block that starts with '```python' has no end",
    "````{note}\n```\nx\n```": "a block that starts with '````{note}' has no end",
}


@pytest.mark.parametrize(("text", "said"), REFUSED.items())
def test_what_the_book_does_not_use_is_refused_in_one_line(page, text, said):
    with pytest.raises(UserError) as caught:
        page.plain(text)
    assert str(caught.value).startswith(f"{page.path}: {said}") and "\n" not in str(caught.value)


def test_the_library_knows_targets_with_their_titles(page):
    assert set(page.library.targets) == {"here", "part", "there"}
    path, title = page.library.targets["part"]
    assert (path.name, title) == ("index.md", "A part of it")


def test_text_notebooks_are_told_from_pages(page):
    assert is_text_notebook(page.path) and not is_text_notebook(page.path.with_name("index.md"))
    page.path.write_text("# kernelspec: no\n", encoding="utf8")
    assert not is_text_notebook(page.path)
