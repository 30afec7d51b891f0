"""Small things the tests share: kernels, waiting, counting what is left."""
