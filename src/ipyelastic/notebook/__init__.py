"""The notebook's side: the magics, cells as calls, failures as IPython shows them."""
