"""Evaluation: measures a policy independently of its training reward.

An evaluation is called with a run's `Experiment` and returns a summary of plain values for the metrics, whose numbers
can serve as the run's `optimized_metric`. Its attribute `every` is the number of steps between evaluations, and
`gain(before, after)` compares two summaries.
"""
