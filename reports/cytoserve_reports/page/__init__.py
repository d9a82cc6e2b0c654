"""The review page: one self-contained HTML file of a sample, and the verdicts that a reader gives in it.

``language`` holds the texts, ``pictures`` what is shown of the images, ``document`` the page as data, ``render`` the
HTML; ``binding`` and ``verdicts`` read what comes back, ``readings`` compares two readers and writes confirmed cells.
"""

from cytoserve_reports.page.document import PageSettings, StatedGuarantee
from cytoserve_reports.page.language import LANGUAGES
from cytoserve_reports.page.render import ReviewPage, review_page

__all__ = ["LANGUAGES", "PageSettings", "ReviewPage", "StatedGuarantee", "review_page"]
