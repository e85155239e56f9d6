"""The network, one fast step of it, and the loss of a text under it."""
