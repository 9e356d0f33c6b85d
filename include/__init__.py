"""The nouns of Daybreak: configuration, runs, snapshots, models, scores, prediction tables."""
