"""Views of the client's answers: the sample's report, tables for a terminal, annotated pictures.

>>> from cytoserve_client import Client
>>> from cytoserve_reports import summarise
>>> with Client("localhost:8001") as client:                     # doctest: +SKIP
...     report = summarise(client.analyze(["field-1.png", "field-2.png"]))
...     print(report.differential["neutrophil"].percent)
"""

from cytoserve_reports.differential import ClassCount
from cytoserve_reports.review import ReviewItem, review_order
from cytoserve_reports.sample import SampleReport, summarise, summarise_each

__all__ = ["ClassCount", "ReviewItem", "SampleReport", "review_order", "summarise", "summarise_each"]
