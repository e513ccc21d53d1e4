"""What was done to a model, with the evidence: one record, rendered as text, JSON or HTML."""

from __future__ import annotations

from featherweight.report.summary import SUFFIXES, Report, check_suffix, environment, make_report, to_plain

__all__ = ["SUFFIXES", "Report", "check_suffix", "environment", "make_report", "to_plain"]
