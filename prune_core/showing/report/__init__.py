"""A report for those who decide, from findings to one file."""
