"""Evaluation: what a policy is worth, measured beside whatever it is trained on.

An evaluation is called with a run's `Experiment` and gives a summary for the metrics: plain values, of which the
numbers can be the run's `optimized_metric`. It has `every`, the steps between evaluations, and `gain(before, after)`,
the comparison of two summaries.
"""
