"""What uses a trained or a training net: generation, uncertainty, calibration, timing."""
