"""What every room needs and nobody comes for: devices and processes, files and carried data, hooks, provenance."""
