"""Applications of a net in training or trained: generation, uncertainty, calibration, timing."""
