"""What every adapter reads with: config fields, tensors, what the user says, and its claim."""
