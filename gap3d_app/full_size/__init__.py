"""The public checkpoints' networks at full size with random weights: how fast they are, and how exact.

What is compared are two ways through the same weights in one process: the one that the released code takes
(reference_*.py) and the package's own. Needs one CUDA device, no weights and nothing but torch.
"""
