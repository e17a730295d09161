"""Seed sweeps behind claims: run, killed, resumed, checked, and thrown away when the recipe changes."""

import json
import shutil
import signal
import time

import pytest
from conftest import SET, copy_package, make_tree, one_line, rnn2rag, start_rnn2rag, write_section

from rnn2rag.authoring import built, claims
from rnn2rag.errors import UserError

STORED = "assets/claims/tiny.json"
CLAIMS = """%%
:tags: [recipe]

from rnn2rag import checks

claims = checks.Claims("tiny", {
    "gain": checks.Claim("It gains", above=0.0),
    "loss": checks.Claim("It loses", above=0.0, tolerance=2.0),
})"""
MEASURE = """%%
:tags: [recipe]

import sys, time
from rnn2rag.built.recurrent_networks import gain

def measure(seed):
    print("a line that no one reads")
    print("noise " * 20_000, file=sys.stderr)
    time.sleep(SECONDS)
    return {"gain": gain(seed), "loss": 9 + seed / 100, "other": 0.0}"""
GAIN = """%%
:tags: [export]

SCALE = 10

def gain(seed):
    return scaled(seed) + 1

def scaled(seed):
    return seed / SCALE

def unused():
    return 1"""


def make_course(folder, seconds=0.0):
    """A tree with its own package: one section exports, the next makes claims with what it built."""
    tree = make_tree(folder)
    copy_package(tree)
    write_section(tree, "a-cell", GAIN)
    write_section(tree, "b-claims", CLAIMS, MEASURE.replace("SECONDS", str(seconds)), "%%\nnot_part_of_the_recipe = 1")
    return tree


def stored(tree):
    return json.loads((tree / STORED).read_text(encoding="utf8"))


def sweep(tree, *arguments):
    return rnn2rag(tree, "claims", *arguments, package=True)


def seeds_run(said):
    return [int(line.partition("seed ")[2].split(":")[0]) for line in said.splitlines() if ", seed " in line]


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    tree = make_course(tmp_path_factory.mktemp("swept"))
    return tree, sweep(tree)


def test_a_sweep_runs_ten_quick_seeds(swept):
    tree, (status, said, errors) = swept
    assert (status, errors) == (1, "") and seeds_run(said) == list(range(10))
    lines = said.splitlines()
    assert lines[-2] == "  It gains: -0.06383 to 2.964 over 10 seeds, UNCERTAIN at the band's edge"
    assert lines[-1] == "  It loses: 7.045 to 11.04 over 10 seeds, certain"
    assert stored(tree)["seeds"]["3"] == {"gain": 1.3, "loss": 9.03, "other": 0.0}
    assert stored(tree)["section"] == f"chapters/{SET}/b-claims.md" and len(stored(tree)["recipe"]) == 64


@pytest.fixture
def at_home(monkeypatch):
    """Let the package here, and the processes that it starts, take a tree's modules for those of its own folder."""

    def move(tree):
        monkeypatch.setattr(claims, "__file__", str(tree / "rnn2rag" / "authoring" / "claims.py"))
        monkeypatch.chdir(tree)
        return tree, tree / "chapters" / SET / "b-claims.md"

    return move


def test_a_complete_sweep_is_left_alone(swept, at_home, capsys):
    tree, source = at_home(swept[0])
    before = (tree / STORED).read_bytes()
    assert not claims.sweep(tree, source)
    said = capsys.readouterr().out
    assert seeds_run(said) == [] and "It gains: -0.06383 to 2.964 over 10 seeds" in said
    assert (tree / STORED).read_bytes() == before


def test_check_runs_one_seed_again(swept):
    tree, _ = swept
    before = (tree / STORED).read_bytes()
    status, said, errors = sweep(tree, "--check")
    assert (status, errors) == (0, "") and "tiny: seed " in said and said.endswith("again, inside every band\n")
    assert (tree / STORED).read_bytes() == before


def test_check_fails_outside_the_band(swept, tmp_path, at_home):
    tree, source = at_home(shutil.copytree(swept[0], tmp_path / "course"))
    good = stored(tree)
    lower = {seed: {**run, "gain": run["gain"] / 100} for seed, run in good["seeds"].items()}
    (tree / STORED).write_text(json.dumps({**good, "seeds": lower}), encoding="utf8")
    with pytest.raises(UserError, match=r"b-claims.md: seed \d gives gain = 1.*, outside -0.000.* to 0.0"):
        claims.check(tree, source)


def test_sources_with_claims(swept):
    tree, _ = swept
    assert [path.name for path in claims.with_claims(tree)] == ["b-claims.md"]


def test_a_killed_sweep_goes_on(tmp_path):
    tree = make_course(tmp_path, seconds=0.3)
    process = start_rnn2rag(tree, "claims", package=True)
    end = time.monotonic() + 60
    while not ((tree / STORED).exists() and len(stored(tree)["seeds"]) >= 2) and time.monotonic() < end:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = stored(tree)["seeds"]
    assert 2 <= len(done) < 10
    status, said, _ = sweep(tree)
    assert seeds_run(said) == list(range(len(done), 10))
    after = stored(tree)["seeds"]
    assert {seed: after[seed] for seed in done} == done and len(after) == 10
    assert 10 * 0.3 <= stored(tree)["seconds"] < 10 * 3


def edit(path, old, new):
    text = path.read_text(encoding="utf8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf8")


@pytest.fixture
def hash_of(at_home):
    """The hash of the recipe in a tree, over the modules that are built there."""

    def compute(tree):
        built.write(tree)
        return claims.recipe_hash(at_home(tree)[1])

    return compute


def test_what_the_hash_covers(tmp_path, hash_of):
    tree = make_course(tmp_path)
    cell, section = (tree / "chapters" / SET / name for name in ("a-cell.md", "b-claims.md"))
    known = {hash_of(tree)}
    edit(cell, "return 1", "return 2")  # a function that the recipe does not use
    edit(cell, "SCALE = 10\n", "SCALE = 10  # a comment\n")
    edit(section, "not_part_of_the_recipe = 1", "not_part_of_the_recipe = 2")
    section.write_text(section.read_text(encoding="utf8") + "More prose.\n", encoding="utf8")
    assert {hash_of(tree)} == known
    for path, old, new in (
        (section, "9 + seed / 100", "9 + seed / 50"),
        (cell, "scaled(seed) + 1", "scaled(seed) + 2"),
        (cell, "seed / SCALE", "2 * seed / SCALE"),
        (cell, "SCALE = 10", "SCALE = 20"),
        (section, "import gain", "import gain as gain"),
    ):
        edit(path, old, new)
        new_hash = hash_of(tree)
        assert new_hash not in known, (old, new)
        known.add(new_hash)


@pytest.mark.parametrize(
    "statement", ["from rnn2rag.built import recurrent_networks", "import rnn2rag.built.recurrent_networks as built"]
)
def test_the_hash_covers_modules_imported_whole(tmp_path, statement, hash_of):
    tree = make_course(tmp_path)
    edit(tree / "chapters" / SET / "b-claims.md", "from rnn2rag.built.recurrent_networks import gain", statement)
    before = hash_of(tree)
    edit(tree / "chapters" / SET / "a-cell.md", "return 1", "return 2")
    assert hash_of(tree) != before


def test_a_changed_recipe_is_noticed_and_swept_again(swept, tmp_path, at_home, capsys):
    tree, source = at_home(shutil.copytree(swept[0], tmp_path / "course"))
    edit(tree / "chapters" / SET / "a-cell.md", "scaled(seed) + 1", "scaled(seed) + 5")
    assert "rnn2rag/built/recurrent_networks.py: does not match" in one_line(*sweep(tree, "--check"))
    built.write(tree)
    with pytest.raises(UserError, match=f"^{STORED}: the sweep is missing or of another recipe; run `rnn2rag claims"):
        claims.check(tree, source)
    assert claims.sweep(tree, source) and seeds_run(capsys.readouterr().out) == list(range(10))
    assert stored(tree)["seeds"]["0"]["gain"] == 5.0


FAILING = {
    "no claims": ("%%:tags: [recipe]\n\ndef measure(seed): return {}", "the recipe failed: KeyError: 'claims'"),
    "an error": ("%%:tags: [recipe]\n\n1 / 0", "the recipe failed: ZeroDivisionError: division by zero"),
    "no python": ("%%:tags: [recipe]\n\n%matplotlib inline", "the recipe failed: SyntaxError: invalid syntax"),
    "a lacking value": (
        CLAIMS + "\ndef measure(seed): return {'gain': 1.0}",
        "measure(0) returns no value for the claim 'loss'",
    ),
}


@pytest.mark.parametrize(("part", "said"), FAILING.values(), ids=FAILING)
def test_a_recipe_that_fails_is_one_line(tmp_path, part, said):
    tree = make_tree(tmp_path)
    source = write_section(tree, "broken", part)
    with pytest.raises(UserError) as caught:
        claims.sweep(tree, source)
    assert str(caught.value) == f"{source}: {said}"
    assert not (tree / "assets" / "claims").exists()


def test_check_without_a_sweep(tmp_path):
    tree = make_tree(tmp_path)
    source = write_section(tree, "tiny", CLAIMS + "\ndef measure(seed): return {'gain': 1.0, 'loss': 1.0}")
    with pytest.raises(UserError, match="^assets/claims/tiny.json: the sweep is missing or of another recipe; run"):
        claims.check(tree, source)
