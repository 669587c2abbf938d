"""Deviations of VM_BIND: rows VMB-B and VMB-R of the digest, a guard removed or a historical bug each."""
