"""Real data from package registries: fetched once, checked each time it is loaded."""
