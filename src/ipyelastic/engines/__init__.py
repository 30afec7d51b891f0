"""Where a run goes, and the `Run` its user holds."""
