"""Measurements beside independent solvers and other libraries; each runs as `python -m benchmarks.<name>`."""
