"""For test suites: a pytest plugin (:mod:`.plugin`) and Hypothesis strategies (:mod:`.strategies`).

The top layer, beside the command line: it uses the library and nothing uses it.  Nothing here is imported
unless a test suite asks for it; pytest and hypothesis are not needed for anything else.
"""
