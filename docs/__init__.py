"""So that `python -m docs.course.check` finds this folder and not a package of the same name elsewhere."""
