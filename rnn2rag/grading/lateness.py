"""Late submissions: one policy in nbgrader_config.py, which our grader and stock `nbgrader autograde` follow alike.

nbgrader knows a due date for each assignment, an extension for each submission, and a plugin that turns lateness into
points. `apply_dates` writes the policy's dates into nbgrader's gradebook; `LatePenalty` is the plugin.
"""

from __future__ import annotations

import math
import re
import zoneinfo
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from nbgrader.api import Gradebook, MissingEntry
from nbgrader.plugins import LateSubmissionPlugin
from nbgrader.preprocessors import latesubmissions
from traitlets import Dict, Float, TraitError
from traitlets.config import Config

from rnn2rag import course
from rnn2rag.errors import UserError

DAY = 86400.0  # seconds


class LatePenalty(LateSubmissionPlugin):
    """What a late submission loses, by the policy in nbgrader_config.py.

    Each day that has begun since the due date takes a share of the points earned, to a limit; after the last day
    nothing counts. Raises UserError for a policy that does not make sense.
    """

    due = Dict(help="The due date of each problem set, {set: 'YYYY-MM-DD HH:MM ZONE'}.").tag(config=True)
    extensions = Dict(help="Later due dates of single students, {set: {student: date}}.").tag(config=True)
    grace = Float(0.0, help="Minutes after the due date that cost nothing.").tag(config=True)
    per_day = Float(0.0, help="Share of the points earned that each begun day takes, from 0 to 1.").tag(config=True)
    most = Float(1.0, help="The greatest share that lateness takes, from 0 to 1.").tag(config=True)
    last_day = Float(math.inf, help="Days after the due date from which on nothing counts.").tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        try:
            super().__init__(**kwargs)
        except TraitError as error:
            raise UserError(f"nbgrader_config.py: c.LatePenalty: {str(error).splitlines()[0]}") from None
        for key in ("per_day", "most"):
            if not 0 <= getattr(self, key) <= 1:
                raise UserError(
                    f"nbgrader_config.py: c.LatePenalty.{key}: must be a share from 0 to 1, not {getattr(self, key):g}"
                )
        for key in ("grace", "last_day"):
            if not getattr(self, key) >= 0:
                raise UserError(
                    f"nbgrader_config.py: c.LatePenalty.{key}: must be 0 or more, not {getattr(self, key):g}"
                )
        # nbgrader's AssignLatePenalties makes its plugin just before it looks whether a submission is late. Its own
        # name for the gradebook is used here: inside a transaction that gives the one which is open already.
        assignment, database = getattr(self.parent, "assignment_id", ""), getattr(self.parent, "db_url", "")
        if assignment and assignment in {*self.due, *self.extensions}:
            with latesubmissions.Gradebook(database) as gradebook:
                self.write_dates(gradebook, assignment)

    def late_submission_penalty(self, student_id: str, score: float, total_seconds_late: float) -> float | None:
        """Return the points that a score loses at so many seconds after the due date; None for none.

        nbgrader's own penalty_method = "zero" is kept: all is lost after the grace.
        """
        if total_seconds_late <= 60 * self.grace:
            return None
        if self.penalty_method == "zero" or total_seconds_late > DAY * self.last_day:
            return score
        return score * min(self.most, self.per_day * math.ceil(total_seconds_late / DAY)) or None

    def dates(self, names: list[str]) -> tuple[dict[str, datetime], dict[str, dict[str, datetime]]]:
        """Return the due dates and the students' later ones, in UTC. Raises UserError for sets not among `names`."""
        for key, sets in (("due", self.due), ("extensions", self.extensions)):
            for name in sets:
                if name not in names:
                    known = ", ".join(names) or "none yet"
                    raise _wrong(key, name, f"there is no such problem set; the sets are: {known}")
        due = {name: _moment("due", name, text) for name, text in self.due.items()}
        later = {}
        for name, students in self.extensions.items():
            if name not in due:
                raise _wrong("extensions", name, "the set has no due date to extend; add it to c.LatePenalty.due")
            if not isinstance(students, dict):
                raise _wrong("extensions", name, "must be {student: date}")
            later[name] = {student: _moment("extensions", name, text) for student, text in students.items()}
            for student, moment in later[name].items():
                if moment < due[name]:
                    raise _wrong("extensions", name, f"the date for {student!r} is before the due date")
        return due, later

    def write_dates(self, gradebook: Gradebook, name: str) -> None:
        """Write the due date of a problem set and the extensions of its submissions, where the policy has them."""
        due, later = self.dates(course.set_names(_tree(self.config)))
        if name not in due:
            return
        naive = due[name].replace(tzinfo=None)  # nbgrader stores UTC without a zone
        if gradebook.find_assignment(name).duedate != naive:
            gradebook.update_or_create_assignment(name, duedate=naive)
        for student, moment in later.get(name, {}).items():
            try:
                submission = gradebook.find_submission(name, student)
            except MissingEntry:
                continue
            minutes = (moment - due[name]) / timedelta(minutes=1)
            if submission.extension != timedelta(minutes=minutes):
                gradebook.grant_extension(name, student, minutes=minutes)


def apply_dates(gradebook: Gradebook, name: str, config: Config) -> None:
    """Write the policy's dates for a problem set into nbgrader's gradebook; dates it does not name stay as they are.

    config: of nbgrader_config.py, see `course.nbgrader_config`. The set must be in the gradebook; extensions reach the
    submissions that are there already. Raises UserError for a policy that does not make sense, even if the set has no
    due date.
    """
    policy = LatePenalty(config=config)
    policy.dates(course.set_names(_tree(config)))
    policy.write_dates(gradebook, name)


def _tree(config: Config) -> Path:
    root = config.CourseDirectory.get("root")
    return Path(root) if isinstance(root, str) and root else Path.cwd()


def _moment(key: str, name: str, text: object) -> datetime:
    """A date of the policy, in UTC."""
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?) (\S+)", text) if isinstance(text, str) else None
    try:
        if found is None:
            raise ValueError
        return datetime.fromisoformat(found[1]).replace(tzinfo=_zone(found[2])).astimezone(UTC)
    except (ValueError, OverflowError, OSError, zoneinfo.ZoneInfoNotFoundError):
        raise _wrong(
            key, name, f"{text!r} is no date with a time zone; write it as '2027-03-01 23:59 Europe/Berlin'"
        ) from None


def _zone(name: str) -> datetime.tzinfo:
    offset = re.fullmatch(r"([+-])(\d\d):(\d\d)", name)
    if offset:
        sign = -1 if offset[1] == "-" else 1
        return timezone(sign * timedelta(hours=int(offset[2]), minutes=int(offset[3])))
    return zoneinfo.ZoneInfo(name)


def _wrong(key: str, name: object, reason: str) -> UserError:
    return UserError(f"nbgrader_config.py: c.LatePenalty.{key}[{name!r}]: {reason}")
