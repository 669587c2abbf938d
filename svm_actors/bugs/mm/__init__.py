"""Planted bugs of the core MM (core_mm section 16), by topic."""
