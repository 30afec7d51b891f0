"""What the kernel says about processes: signals taken and given back, parents that die, sessions ended whole."""
