"""What instructors use: submissions in, scores in nbgrader's gradebook, feedback out."""

import sys

# jsonschema would load a grammar of international addresses, a second of work in each process; notebooks have none.
sys.modules.setdefault("rfc3987_syntax", None)
