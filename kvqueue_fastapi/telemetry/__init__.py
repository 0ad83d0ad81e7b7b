"""Metrics, traces and log records of a queue, as middleware.

Each module here needs what its extra brings, and nothing of this package imports them: who does
not use them need not have it.
"""
