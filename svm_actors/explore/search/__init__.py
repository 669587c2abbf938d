"""Systematic search of all schedules of a program (exploration digest, section 1.3)."""

from __future__ import annotations

from svm_actors.explore.search.scenario import search_scenario
from svm_actors.explore.search.search import Bound, Found, SearchError, rising, search

__all__ = ["Bound", "Found", "SearchError", "rising", "search", "search_scenario"]
