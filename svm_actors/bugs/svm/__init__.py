"""Deviations of the shared-virtual-memory path: gpusvm, and what the xe driver does with it (gpusvm section 11)."""
