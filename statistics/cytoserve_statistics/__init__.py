"""The house's statistics: each interval and each measure is defined here once, on SciPy.

- `shares`: intervals of a share, of a difference of shares, of a ratio of two counts.
- `clusters`: bounds of a share whose observations come in clusters, such as the cells of slides.
- `accuracy`: balanced accuracy, the mean of the recalls.
- `calibration`: reliability bins and the expected calibration error.
- `resampling`: draws of cells or of whole slides, and the intervals that come from them.
- `ranking`: ROC curves and the area under them.

It imports no other room. SciPy is imported inside functions, because `cytoserve --help` imports this room as well.
"""
