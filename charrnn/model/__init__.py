"""The network, a fast single step for sampling, and the loss of a text."""
