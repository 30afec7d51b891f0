"""What an agent tells the machines that watch it: events (what happened) and metrics (how much, how long)."""
