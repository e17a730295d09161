"""A class over nbgrader's exchange, as on a JupyterHub: release, fetch, submit, collect, grade, feedback."""

import os
import re
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT, SET, copy_set, make_tree, rnn2rag

NOTEBOOK = "recurrent-networks.ipynb"
PAGE = ROOT / "chapters" / "guide" / "classrooms.md"


class Hub:
    """The course's tree, a student's home, and the configuration of all users that the page gives."""

    def __init__(self, folder):
        self.tree, self.home = make_tree(folder / "course"), folder / "ada"
        self.exchange, self.settings = folder / "exchange", folder / "etc"
        for place in (self.home, self.exchange, self.settings):
            place.mkdir()
        copy_set(self.tree, ROOT)
        config = re.search(r"```python\n(# /etc/jupyter/nbgrader_config\.py\n.+?)```", PAGE.read_text("utf8"), re.S)[1]
        assert "/srv/exchange" in config
        text = config.replace("/srv/exchange", str(self.exchange))
        (self.settings / "nbgrader_config.py").write_text(text, encoding="utf8")

    def nbgrader(self, folder, *arguments):
        """Run a stock nbgrader command as a user of the hub whose home is beside the tree; return what it logged."""
        own = {"HOME": str(self.home.parent / "home"), "JUPYTER_CONFIG_PATH": str(self.settings)}
        own |= {f"JUPYTER_{kind}_DIR": str(self.home.parent / kind) for kind in ("CONFIG", "DATA", "RUNTIME")}
        command = [sys.executable, "-m", "nbgrader", *arguments]
        ran = subprocess.run(command, cwd=folder, env=os.environ | own, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr
        return ran.stderr

    def submit(self):
        self.nbgrader(self.home, "submit", SET, "--student=ada")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    return Hub(tmp_path_factory.mktemp("hub"))


def test_a_set_goes_out_comes_back_is_graded_and_its_page_returns(hub):
    hub.nbgrader(hub.tree, "release_assignment", SET)
    hub.nbgrader(hub.home, "fetch_assignment", SET)
    fetched = hub.home / SET / NOTEBOOK
    assert fetched.read_bytes() == (ROOT / "exercises" / SET / NOTEBOOK).read_bytes()
    assert [path.name for path in hub.exchange.rglob("*") if path.is_file()] == [NOTEBOOK]  # and nothing else went out

    hub.submit()
    hub.nbgrader(hub.tree, "collect", SET)
    submitted = hub.tree / "submitted" / "ada" / SET
    assert (submitted / NOTEBOOK).read_bytes() == fetched.read_bytes()

    shutil.copy(hub.tree / "solutions" / SET / NOTEBOOK, fetched)
    hub.submit()
    hub.nbgrader(hub.tree, "collect", SET, "--update")
    assert (submitted / NOTEBOOK).read_bytes() == fetched.read_bytes()

    status, stdout, stderr = rnn2rag(hub.tree, "grade", SET)
    assert status == 0, stderr
    points, possible = re.match(r"ada +(\d+) of (\d+)  some cells wait for a person\n", stdout).groups()
    assert 0 < int(possible) - int(points) < 5  # all but the free-text answer, which waits

    hub.nbgrader(hub.tree, "release_feedback", SET)
    hub.nbgrader(hub.home, "fetch_feedback", SET)
    (page,) = (hub.home / SET / "feedback").glob("*/*.html")
    assert page.read_bytes() == (hub.tree / "feedback" / "ada" / SET / NOTEBOOK).with_suffix(".html").read_bytes()
    assert (submitted / "timestamp.txt").read_text(encoding="utf8").strip() == page.parent.name
