"""`torch.numa`: bind workers to the CPUs near their GPU."""
