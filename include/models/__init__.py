"""Models: an alias in the registry becomes one version, and that version a pinned folder."""
