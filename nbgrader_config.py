"""nbgrader's configuration: every stock nbgrader command works in this folder."""

import os
import sys
from pathlib import Path

c = get_config()  # noqa: F821 (nbgrader provides it)

c.CourseDirectory.source_directory = "solutions"
c.CourseDirectory.release_directory = "exercises"
# Problem sets with hidden tests of your own: a folder outside of this tree, laid out as solutions/. A set that stands
# there takes the place of the one in solutions/.
# c.Rnn2rag.private = "../private-solutions"
# The text sources and the planted answers stand beside the notebooks, and must never be released.
c.CourseDirectory.ignore = [".ipynb_checkpoints", "*.pyc", "__pycache__", "feedback", "*.md", "*.py"]
c.ClearSolutions.code_stub = {"python": "# Write your code here.\nraise NotImplementedError"}
# A test cell that a submission lacks is added back and graded; one that the set does not know is a cell like any other.
c.Autograde.sanitize_preprocessors = [
    "rnn2rag.grading.restore.MendMetadata",
    "nbgrader.preprocessors.ClearOutput",
    "nbgrader.preprocessors.DeduplicateIds",
    "nbgrader.preprocessors.OverwriteKernelspec",
    "rnn2rag.grading.restore.RestoreCells",
    "nbgrader.preprocessors.CheckCellMetadata",
]
c.OverwriteCells.add_missing_cells = True
# What a student wrote must not run in the browser of whoever reads it in formgrader.
c.Autograde.autograde_preprocessors = [
    "nbgrader.preprocessors.Execute",
    "nbgrader.preprocessors.IgnorePattern",
    "nbconvert.preprocessors.ClearMetadataPreprocessor",
    "nbgrader.preprocessors.LimitOutput",
    "nbgrader.preprocessors.SaveAutoGrades",
    "nbgrader.preprocessors.AssignLatePenalties",
    "nbgrader.preprocessors.CheckCellMetadata",
    "rnn2rag.grading.sanitize.Sanitize",
]
c.Execute.timeout = 120
c.Execute.extra_arguments = ["--HistoryManager.hist_file=:memory:", "--IPKernelApp.log_level=40"]
# Feedback shows what a test said, never what it hides.
c.GenerateFeedback.preprocessors = [
    "nbgrader.preprocessors.GetGrades",
    "rnn2rag.grading.feedback.HideTests",
    "nbconvert.preprocessors.CSSHTMLHeaderPreprocessor",
]

# Late submissions. Without due dates nobody is late. A submission was handed in when the timestamp.txt in its folder
# says; zips from Canvas and Moodle do not tell, so leave lateness to them, or write that file yourself.
c.AssignLatePenalties.plugin_class = "rnn2rag.grading.lateness.LatePenalty"
# Due dates by set, each with a time zone, by name or as an offset ("+02:00"):
# c.LatePenalty.due = {"01-recurrent-networks": "2027-03-01 23:59 Europe/Berlin"}
# Later due dates of single students, by set and by the name of the student's folder under submitted/:
# c.LatePenalty.extensions = {"01-recurrent-networks": {"ada": "2027-03-08 23:59 Europe/Berlin"}}
# c.LatePenalty.grace = 15  # minutes after the due date that cost nothing
# c.LatePenalty.per_day = 0.1  # the share of the points earned that each begun day takes
# c.LatePenalty.most = 0.5  # the greatest share that lateness takes
# c.LatePenalty.last_day = 7  # days after the due date from which on nothing counts

# Stock nbgrader knows one folder of sources: the private one, where it holds every set.
_tree = Path(__file__).parent if "__file__" in globals() else Path()
_private = c.Rnn2rag.get("private")
if _private and all((_tree / _private / source.parent.name).is_dir() for source in _tree.glob("solutions/*/*.md")):
    c.CourseDirectory.source_directory = _private

# nbgrader calls alembic by its bare name.
_programs = str(Path(sys.executable).parent)
if not os.environ["PATH"].startswith(_programs + os.pathsep):
    os.environ["PATH"] = os.pathsep.join([_programs, os.environ["PATH"]])

# The hidden inputs of a graded run are drawn from this key; `rnn2rag grade` makes it.
_key = Path(__file__).with_name("release.key") if "__file__" in globals() else Path("release.key")
if _key.exists():
    os.environ.setdefault("RNN2RAG_RELEASE_KEY", _key.read_text(encoding="utf8").strip())
