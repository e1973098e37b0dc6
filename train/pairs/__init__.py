"""Real pairs: registered, calibrated scans of two scanners, cut into one dataset that a network trains on."""
