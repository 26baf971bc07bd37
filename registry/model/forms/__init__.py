"""What the commands of AI clients' files mean: one module for each kind of command, below `registry.model.spec`."""
