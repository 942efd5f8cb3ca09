"""Settings for production within a limit on p99, measured."""
