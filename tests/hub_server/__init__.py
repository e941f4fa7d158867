"""`mdl serve --hub` between the loopback Hub and the real clients."""
