"""A passthrough mount that reads models ahead: does what the optimizer decides."""
