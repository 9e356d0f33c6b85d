"""Two example pipelines on real public data: fetched, loaded, trained and registered."""
