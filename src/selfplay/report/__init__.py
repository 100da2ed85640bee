"""The report: what a sweep says, in tables and pictures, on one page that needs nothing else."""
