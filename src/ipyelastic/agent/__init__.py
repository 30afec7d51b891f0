"""Torch's elastic agent: starts one machine's workers, watches them, says how they ended."""
