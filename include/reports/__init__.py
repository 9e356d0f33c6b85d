"""A run's report, from the records of its steps: one page for people, one JSON for machines."""
