"""The words every other room uses: flags, environment names, failures, events and errors. Imports nothing of ours."""
