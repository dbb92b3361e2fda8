"""TorchX components and the driver that runs a chain of stages."""
