"""The command line: `ipyelastic run`, in torchrun's place, and `ipyelastic doctor`."""
