"""What survives the process: the durable outbox, and the operator's view into it."""
