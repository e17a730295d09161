"""What instructors use: submissions in, scores in nbgrader's gradebook, feedback out."""
