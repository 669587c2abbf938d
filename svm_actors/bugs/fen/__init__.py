"""Deviations of fences, reservations and the GPU scheduler: tables FEN-B and FEN-R (fences_and_scheduler 10, 11)."""
