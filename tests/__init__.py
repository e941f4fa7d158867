"""The tests of mdl; the folders mirror the packages. `tests.hub` is a loopback Hub."""
