"""Which accelerators there are, found without initialising any of them."""
