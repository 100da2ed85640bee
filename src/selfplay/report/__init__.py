"""The report: tables and figures of a sweep on one self-contained HTML page."""
