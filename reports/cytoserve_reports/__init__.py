"""Views of a result: tables, annotated pictures."""
