"""What a person asks for, as one set of options for the magic, `launch()` and the command line."""
