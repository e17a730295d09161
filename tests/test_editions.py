"""Editions and the modules built from them: real runs of small courses, written, checked, verified, interrupted."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest
from conftest import ROOT, SET, copy_package, load, make_tree, notebook, rnn2rag, start_rnn2rag, write_section

from rnn2rag import execute
from rnn2rag.authoring import book, built, editions
from rnn2rag.authoring.markdown import Library
from rnn2rag.errors import UserError

GLUES = """%%
from rnn2rag import show
show.glue("third", 1 / 3)
show.glue("name", "tanh")"""
TELLS = "A third is {glue:text}`third:.2f`, called {glue:text}`name`.\n\n```{run-box}\n```"
SPEAKS = "%%\nimport sys, time\nfor n in range(3):\n    print(n, flush=True)\n    time.sleep(0.1)\n6 * 7"
FAILS = "%%:tags: [raises-exception]\n\nopen('there-is-none.txt')"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A tree of two sections, brought up to date by the command; the tree and what the command said."""
    tree = make_tree(tmp_path_factory.mktemp("written"))
    write_section(tree, "cell", "# A cell\n\nSee {ref}`gate`.", GLUES, TELLS, SPEAKS, FAILS)
    write_section(tree, "gate", "(gate)=\n# A gate", "%%:tags: [export]\n\nGATE = 1", "%%\nGATE")
    (tree / "rnn2rag" / "built").mkdir(parents=True)
    status, stdout, stderr = rnn2rag(tree, "notebooks", "--jobs", "2")
    assert (status, stderr) == (0, "")
    return tree, stdout


@pytest.fixture
def tree(written, tmp_path):
    """A copy of the written tree, to be changed."""
    import shutil

    return shutil.copytree(written[0], tmp_path / "course")


def sources(tree):
    return {path.stem: path for path in editions.sources(tree)}


def edition(tree, name):
    return load(editions.edition_path(sources(tree)[name]))


def texts(nb):
    return ["".join(cell["source"]) for cell in nb["cells"]]


def test_an_edition_is_what_readers_open(written):
    tree, said = written
    nb = edition(tree, "cell")
    _, title, glues, tells, speaks, fails = nb["cells"]
    assert "".join(title["source"]) == "# A cell\n\nSee [A gate](gate.ipynb)."
    assert "".join(tells["source"]).startswith("A third is 0.33, called tanh.\n\n> **This run:** ")
    assert [output["output_type"] for output in speaks["outputs"]] == ["stream", "execute_result"]
    assert "".join(speaks["outputs"][0]["text"]) == "0\n1\n2\n" and speaks["outputs"][1]["execution_count"] == 2
    assert [cell["execution_count"] for cell in (glues, speaks, fails)] == [1, 2, 3]
    (error,) = fails["outputs"]
    assert error["traceback"] == ["FileNotFoundError: [Errno 2] No such file or directory: 'there-is-none.txt'"]
    facts = nb["metadata"]["rnn2rag"]
    assert facts["cpu_seconds"] > 0 and facts["peak_memory"] > 1e7 and set(facts["versions"]) == {"python", "torch"}
    assert f"{SET}/cell.md" in said and f"{SET}/gate.md" in said
    for path in tree.rglob("*.ipynb"):
        text = path.read_text(encoding="utf8")
        assert "/tmp" not in text and str(tree) not in text and "ipython-input" not in text and text.endswith("}\n")
        assert execute.read(path).nbformat_minor == 5


def test_the_built_module_is_written_with_them(written):
    module = (written[0] / "rnn2rag" / "built" / "recurrent_networks.py").read_text(encoding="utf8")
    assert module.startswith('"""Generated from') and module.endswith(f"# From chapters/{SET}/gate.md\n\n\nGATE = 1\n")


def test_nothing_is_run_or_written_twice(tree):
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()}
    start = time.perf_counter()
    assert editions.update(tree, editions.sources(tree), jobs=1) == 0 and built.write(tree) == []
    assert time.perf_counter() - start < 5
    assert {path: path.read_bytes() for path in tree.rglob("*") if path.is_file()} == before
    for source in editions.sources(tree):
        editions.check(source)


def test_the_same_run_gives_the_same_bytes(tree):
    source, library = sources(tree)["cell"], Library.of(tree)
    path = editions.edition_path(source)
    ran = execute.read(path)
    facts = ran.metadata.rnn2rag
    run = execute.Run(ran, 1.0, None, [], facts.cpu_seconds, facts.peak_memory, dict(facts.versions))
    texts = []
    for _ in range(2):
        editions.write(source, run, library)
        texts.append(path.read_bytes())
    assert texts[0] == texts[1]


def edit(path, old, new):
    text = path.read_text(encoding="utf8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf8")


def test_prose_changes_without_a_run(tree, capsys):
    source = sources(tree)["cell"]
    outputs = [cell.get("outputs") for cell in edition(tree, "cell")["cells"]]
    edit(source, "A third is", "One third is")
    assert not editions.needs_run(source)
    with pytest.raises(UserError, match="cell.ipynb: does not match cell.md; run `make notebooks`"):
        editions.check(source)
    assert editions.update(tree, [source], jobs=1) == 0
    assert f"prose  chapters/{SET}/cell.md" in capsys.readouterr().out
    editions.check(source)
    assert texts(edition(tree, "cell"))[3].startswith("One third is 0.33")
    assert [cell.get("outputs") for cell in edition(tree, "cell")["cells"]] == outputs


@pytest.mark.parametrize(("old", "new"), [("6 * 7", "6 * 8"), (":tags: [raises-exception]", ":tags: [hide-input]")])
def test_code_and_tags_need_a_run(tree, old, new):
    source = sources(tree)["cell"]
    edit(source, old, new)
    assert editions.needs_run(source)
    with pytest.raises(UserError, match="does not match cell.md"):
        editions.check(source)


def drop_cell(nb):
    nb["cells"].pop(2)


def add_cell(nb):
    nb["cells"].append({**nb["cells"][2], "id": "mine", "outputs": []})


def change_code(nb):
    nb["cells"][4]["source"] = ["6 * 9"]


def change_prose(nb):
    nb["cells"][1]["source"] = ["# Another title"]


def drop_first(nb):
    nb["cells"].pop(0)


def change_first(nb):
    nb["cells"][0]["source"] = ["import rnn2rag"]


@pytest.mark.parametrize("change", [drop_cell, add_cell, change_code, change_prose, drop_first, change_first])
def test_an_edition_edited_by_hand_is_noticed(tree, change):
    source = sources(tree)["cell"]
    nb = edition(tree, "cell")
    change(nb)
    editions.edition_path(source).write_text(json.dumps(nb, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
    with pytest.raises(UserError, match="does not match cell.md; run `make notebooks`"):
        editions.check(source)


@pytest.mark.parametrize("text", ["", "<<<<<<< HEAD\n{}", "{}"])
def test_a_broken_edition_needs_a_run(tree, text):
    source = sources(tree)["gate"]
    editions.edition_path(source).write_text(text, encoding="utf8")
    assert editions.needs_run(source)
    assert editions.update(tree, [source], jobs=1) == 0
    editions.check(source)


def test_too_large_an_edition_and_unknown_myst_fail_alone(tree, capsys):
    large = write_section(tree, "large", f"%%\nprint('x' * {editions.LARGEST})")
    strange = write_section(tree, "strange", "%%\n1", "```{card}\n```")
    fine = write_section(tree, "fine", "%%\n1")
    edit(sources(tree)["cell"], "# A cell", "# A {numref}`x` cell")
    assert editions.update(tree, editions.sources(tree), jobs=2) == 3
    said = capsys.readouterr().err
    assert "large.ipynb: would have 4" in said and "more than 400,000; show less in its outputs" in said
    assert (
        "strange.md: the directive {card}" in said and "cell.md: the role {numref}" in said and "Traceback" not in said
    )
    assert [editions.edition_path(path).exists() for path in (large, strange, fine)] == [False, False, True]


BROKEN = {
    "tags that are no list": "%%:tags: export\n\n1",
    "tags that do not end": "%%:tags: [export\n\n1",
    "options that are no options": "%%---\njust text\n---\n1",
}


@pytest.mark.parametrize("part", BROKEN.values(), ids=BROKEN)
def test_a_source_that_cannot_be_read_is_one_line(tree, part):
    path = write_section(tree, "broken", part)
    with pytest.raises(UserError) as caught:
        editions.read(path)
    assert str(caught.value).startswith(f"{path}: is not a text notebook") and "\n" not in str(caught.value)


def test_cell_ids_are_stable_and_unique(tree):
    path = write_section(tree, "ids", "%%\n1", "%%\n1", "a", "%%---\nnbgrader: {grade_id: mine}\n---\n2")
    ids = [cell.id for cell in editions.read(path).cells]
    assert len(set(ids)) == 4 and ids[1] == f"{ids[0]}-2" and ids[3] == "mine"
    edit(path, "\na\n", "\nb\n")
    new = [cell.id for cell in editions.read(path).cells]
    assert [old == now for old, now in zip(ids, new, strict=True)] == [True, True, False, True]


def test_an_interrupted_update_goes_on_where_it_was(tmp_path):
    tree = make_tree(tmp_path)
    flag = tmp_path / "flag"
    for name in ("a", "b"):
        write_section(tree, name, f"%%\n'{name}'")
    write_section(
        tree, "c", f"%%\nimport pathlib, time\nwhile not pathlib.Path({str(flag)!r}).exists(): time.sleep(0.1)"
    )
    (tree / "rnn2rag" / "built").mkdir(parents=True)
    process = start_rnn2rag(tree, "notebooks", "--jobs", "1")
    paths = {name: editions.edition_path(source) for name, source in sources(tree).items()}
    end = time.monotonic() + 60
    while not (paths["a"].exists() and paths["b"].exists()) and time.monotonic() < end:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130 and stderr.startswith("rnn2rag: interrupted; what was done is kept")
    assert [path.exists() for path in paths.values()] == [True, True, False]
    before = paths["a"].read_bytes()
    flag.touch()
    status, stdout, stderr = rnn2rag(tree, "notebooks", "--jobs", "1")
    assert (status, stderr) == (0, "") and "/c.md" in stdout and "/a.md" not in stdout
    assert paths["a"].read_bytes() == before and paths["c"].exists()


# The first cell of an edition

WHEEL = "https://example.org/rnn2rag-0.1.0-py3-none-any.whl"
REPOSITORY = "https://github.com/someone/course"
INSTALLS = {
    "the repository": (f"public_address: {REPOSITORY}/", f"git+{REPOSITORY}"),
    "a wheel": (f"package_address: {WHEEL}", WHEEL),
    "a wheel before the repository": (f"public_address: {REPOSITORY}\n    package_address: {WHEEL}", WHEEL),
}


def configure(tree, settings):
    (tree / "_config.yml").write_text(f"sphinx:\n  config:\n    {settings}\n", encoding="utf8")


def test_an_edition_begins_with_a_folded_cell_that_no_page_shows(tree):
    first = edition(tree, "cell")["cells"][0]
    assert (first["id"], first["outputs"], first["execution_count"]) == ("set-up", [], None)
    assert first["metadata"]["jupyter"] == {"source_hidden": True} and first["metadata"]["cellView"] == "form"
    assert "Run `pip install .` in the folder of the course" in "".join(first["source"])
    assert "ensure" not in "".join(first["source"]) and "%pip" not in "".join(first["source"])
    folder = tree / "cache"
    book.fill_cache(list(sources(tree).values()), folder)
    [cached] = [text for path in folder.rglob("*.ipynb") if "tanh" in (text := path.read_text(encoding="utf8"))]
    assert "glue" in cached and "@title" not in cached


@pytest.mark.parametrize(("settings", "address"), INSTALLS.values(), ids=INSTALLS)
def test_an_address_in_the_configuration_needs_no_run(tree, settings, address):
    source = sources(tree)["cell"]
    configure(tree, settings)
    assert not editions.needs_run(source)
    with pytest.raises(UserError, match="does not match cell.md; run `make notebooks`"):
        editions.check(source)
    assert editions.rewrite(source, Library.of(tree)) and not editions.rewrite(source, Library.of(tree))
    lines = texts(edition(tree, "cell"))[0].splitlines()
    assert lines[-2:] == [f'    %pip install --quiet "rnn2rag @ {address}"', "    import rnn2rag"]
    assert [cell["execution_count"] for cell in edition(tree, "cell")["cells"] if "outputs" in cell] == [None, 1, 2, 3]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("public_address: someone/course", "public_address is 'someone/course'; it has the form https://github.com/"),
        ("package_address: ../my wheel.whl", "package_address is '../my wheel.whl'; it has the form git\\+https://"),
        ("package_address: 'https://a.org/$(ls)'", "package_address is 'https://a.org/\\$\\(ls\\)'; it has the form"),
    ],
)
def test_an_address_that_pip_could_not_take_is_one_line(tree, settings, said):
    configure(tree, settings)
    with pytest.raises(UserError, match=f"^{tree}/_config.yml: {said}"):
        editions.check(sources(tree)["cell"])


def test_the_first_cell_names_what_the_cells_load(tree):
    cells = ["%%:tags: [export]\n\nfrom rnn2rag import data\n\n\ndef weeks():\n    return data.load('co2')"]
    cells += ["%%:tags: [export]\n\ndef other():\n    return data.load('grimm')", "%%\n%timeit 1\nload('smollm2')"]
    made = write_section(tree, "made", *cells)
    calls = "%%\nfrom rnn2rag.built.recurrent_networks import weeks as w\nw()\nrnn2rag.models.load('minilm', rt)"
    uses = write_section(tree, "uses", calls, "%%:tags: [raises-exception]\n\ndef f(:", "Not data.load('grimm').")
    built.write(tree)
    assert (editions.loaded(made, tree), editions.loaded(uses, tree)) == (["co2", "grimm"], ["co2", "minilm"])
    without_running(tree, "again", calls)
    assert texts(edition(tree, "again"))[0].endswith('\nrnn2rag.catalog.ensure("co2", "minilm")')


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("data.load(name)", "`data.load(name)` does not tell what it loads: write the name in it, as in data.load("),
        ("data.load('co3')", "the catalog has no 'co3' (did you mean 'co2'?)"),
    ],
)
def test_a_load_that_does_not_tell_its_name_is_one_line(tree, code, said):
    source = write_section(tree, "unclear", f"%%\n{code}")
    with pytest.raises(UserError) as caught:
        editions.loaded(source, tree)
    assert str(caught.value).startswith(f"{source}: {said}") and "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """An interpreter beside which all is installed that stands here, but not this package."""
    folder = tmp_path_factory.mktemp("bare")
    venv.create(folder, symlinks=True)
    beside = folder / "beside"
    beside.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "rnn2rag" not in path.name:
            (beside / path.name).symlink_to(path)
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "beside.pth").write_text(f"{beside}\n", encoding="utf8")
    return folder


def run_alone(python, notebook, **settings):
    """Run a notebook as .ci/learner.py does, in an empty folder; the process that ended."""
    hidden = ("PYTHONPATH", "PYTHONHOME", "JUPYTER_PATH", "VIRTUAL_ENV")
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | settings
    (notebook.parent / "empty").mkdir(exist_ok=True)
    command = [python, "-c", learner().RUN, notebook]
    return subprocess.run(command, cwd=notebook.parent / "empty", env=environment, capture_output=True, text=True)


def learner():
    spec = importlib.util.spec_from_file_location("learner", ROOT / ".ci" / "learner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_first_cell_brings_the_package_and_says_where_it_cannot(bare, tree, tmp_path):
    code = "from rnn2rag import data\nassert len(data.load('co2')['train']) > 2000"
    source = without_running(tree, "alone", f"%%\n{code}")
    python = bare / "bin" / "python"
    run = run_alone(python, editions.edition_path(source))
    assert run.returncode and "rnn2rag is not installed here. Run `pip install .`" in run.stderr

    pip = [sys.executable, "-m", "pip", "--quiet", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*pip, tmp_path / "dist", ROOT], check=True)
    [wheel] = (tmp_path / "dist").glob("rnn2rag-*.whl")
    configure(tree, f"package_address: {wheel.as_uri()}")
    assert editions.rewrite(source, Library.of(tree))
    run = run_alone(python, editions.edition_path(source), PIP_NO_INDEX="1")
    assert run.returncode == 0, run.stderr
    installed = sorted(path.name for path in bare.glob("lib/python*/site-packages/*"))
    assert installed == ["beside.pth", "rnn2rag", f"{wheel.name.removesuffix('-py3-none-any.whl')}.dist-info"]


# Verifying


def without_running(tree, name, *parts):
    """A section with an edition that matches it, as if its code had run well when it was written."""
    source = write_section(tree, name, *parts)
    run = execute.Run(editions.read(source), 1.0, None, [], 1.0, 10**8, {"python": "3", "torch": "2"})
    editions.write(source, run, Library.of(tree))
    return source


ASKS = """import urllib.request
try:
    urllib.request.urlopen("http://example.org")
except OSError:
    pass"""


@pytest.fixture(scope="module")
def verified(tmp_path_factory):
    """`rnn2rag notebooks --check` over good and bad editions: the tree, what the command said, the files it changed."""
    tree = make_tree(tmp_path_factory.mktemp("verified"))
    copy_package(tree)
    without_running(tree, "good", "%%:tags: [export]\n\ndef one():\n    return 1")
    without_running(tree, "wheel", f"%%\nimport rnn2rag\nassert not rnn2rag.__file__.startswith({str(tree)!r})")
    without_running(tree, "later", "%%\nfrom rnn2rag.built.recurrent_networks import one\nassert one() == 1")
    without_running(tree, "empty", "%%\nimport os\nassert os.listdir() == []")
    without_running(tree, "loads", "%%\nfrom rnn2rag import data\nassert len(data.load('co2')['train']) > 2000")
    without_running(tree, "hides", "%%\nfrom rnn2rag import data\nfetch = data.load\nfetch('co2')")
    without_running(tree, "asks", f"%%\n{ASKS}")
    without_running(tree, "error", "%%\n1 / 0")
    without_running(tree, "wrong", "%%\nassert 1 == 2, 'they differ'")
    without_running(tree, "noisy", "%%\nimport warnings\nwarnings.warn('old API')")
    stale = without_running(tree, "stale", "%%\n1")
    edit(stale, "```{code-cell} ipython3\n1", "```{code-cell} ipython3\n2")
    built.write(tree)
    before = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    outcome = rnn2rag(tree, "notebooks", "--check", "--jobs", "2", package=True)
    after = {path: path.read_bytes() for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    return tree, outcome, {path for path in {*before, *after} if before.get(path) != after.get(path)}


def test_verify_passes_what_is_good(verified):
    _, (status, stdout, stderr), _ = verified
    for name in ("good", "wheel", "later", "empty", "loads"):
        assert f"/{name}.md" in stdout and f"/{name}.md" not in stderr
    assert status == 1 and "Traceback" not in stderr


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("error.md", "ZeroDivisionError: division by zero"),
        ("wrong.md", "AssertionError: they differ"),
        ("noisy.md", "UserWarning: old API"),
        ("hides.md", "UserError: 'co2' is not in the cache"),
        ("asks.md", "tries the network: "),
        ("stale.ipynb", "does not match stale.md; run `make notebooks`"),
    ],
)
def test_verify_fails_what_is_not(verified, name, said):
    _, (_, stdout, stderr), _ = verified
    assert name in stderr and said in stderr and name not in stdout
    assert stderr.count("FAILED") == 6


def test_verify_writes_nothing(verified):
    assert verified[2] == set()


def test_a_budget_is_kept(tmp_path, capsys):
    run = execute.Run(notebook("1"), 1.0, cpu_seconds=80.0)
    assert editions._problems(run) == []
    editions._report(tmp_path / "a.md", tmp_path, run, [])
    assert "over the budget of 60" in capsys.readouterr().out
    run.cpu_seconds = 91.0
    assert editions._problems(run) == ["took 91 CPU-seconds; the budget is 60"]


# Built modules


def export(code):
    return f"%%:tags: [export]\n\n{code}"


@pytest.fixture
def course(tmp_path):
    """A tree of three chapters with exported cells, not in the order of their names."""
    tree = make_tree(tmp_path)
    (tree / "rnn2rag" / "built").mkdir(parents=True)
    (tree / "rnn2rag" / "built" / "__init__.py").touch()
    toc = "format: jb-book\nroot: intro\nchapters:\n"
    for page in ("02-b/gate-two", "02-b/gate", "01-a/cell"):
        toc += f"  - file: chapters/{page}\n"
        chapter, _, name = page.partition("/")
        code = name.replace("-", "_")
        write_section(
            tree, name, export(f"{code} = 1"), "%%\nnot_exported = 1", export(f"{code}_too = 2"), chapter=chapter
        )
    write_section(tree, "alone", export("alone = 1"), chapter="02-b")
    write_section(tree, "no-export", "%%\n1", chapter="03-c")
    (tree / "_toc.yml").write_text(toc, encoding="utf8")
    return tree


def test_export_cells_make_one_module_a_chapter_in_the_order_of_the_book(course):
    assert {path.name for path in built.write(course)} == {"a.py", "b.py"}
    text = (course / "rnn2rag" / "built" / "b.py").read_text(encoding="utf8")
    assert [line for line in text.splitlines() if line and line[0] != "#"][1:] == [
        *("gate_two = 1", "gate_two_too = 2", "gate = 1", "gate_too = 2", "alone = 1")
    ]
    names = {}
    exec(compile(text, "b.py", "exec"), names)  # noqa: S102 (made by this test)
    assert names["gate_too"] == 2 and "not_exported" not in names
    built.check(course)
    assert built.write(course) == []


def test_a_stale_or_left_over_module_is_noticed_and_mended(course):
    built.write(course)
    edit(course / "chapters" / "01-a" / "cell.md", "cell = 1", "cell = 3")
    with pytest.raises(
        UserError, match=r"rnn2rag/built/a.py: does not match its chapter's cells; run `make notebooks`"
    ):
        built.check(course)
    assert [path.name for path in built.write(course)] == ["a.py"]
    left = course / "rnn2rag" / "built" / "gone.py"
    left.write_text("x = 1\n", encoding="utf8")
    with pytest.raises(UserError, match="gone.py"):
        built.check(course)
    assert built.write(course) == [left] and not left.exists()
    assert (course / "rnn2rag" / "built" / "__init__.py").exists()
    (course / "rnn2rag" / "built" / "b.py").unlink()
    with pytest.raises(UserError, match="b.py"):
        built.check(course)


@pytest.mark.parametrize("code", ["def f(:\n    pass", "%timeit 1", "!ls"])
def test_an_exported_cell_that_is_no_python_is_one_line(course, code):
    write_section(course, "broken", export(code), chapter="04-d")
    with pytest.raises(UserError) as caught:
        built.write(course)
    said = str(caught.value)
    assert said.startswith("chapters/04-d/broken.md: an exported cell is not plain Python") and "\n" not in said
