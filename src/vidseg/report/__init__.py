"""Self-contained HTML reports: one file, no network, light and dark, wide and narrow."""

from vidseg.report.html import Page

__all__ = ["Page"]
