"""The in-silico study: the paper's experiment on simulated scans, from bone to tables and figures."""
