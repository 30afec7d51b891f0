"""What a person sees of a run, made from events alone: states, lines, prefixed text and failures in words."""
