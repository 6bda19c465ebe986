"""What is wrong on this machine, from the kernel to the mechanisms of a token, and what to do about it."""
