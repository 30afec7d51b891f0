"""`torch.distributed.elastic.agent`: the process that starts one machine's workers and looks after them."""
