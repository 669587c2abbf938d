"""Deviations of device memory: migration both ways, eviction, zone data, owner groups (pagemap section 10)."""
