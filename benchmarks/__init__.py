"""What looking, choosing and the remaining tokens cost on shapes of real models: `python -m benchmarks --help`."""
