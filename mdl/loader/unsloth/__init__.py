"""Unsloth's calls, argument for argument, and what its users do after loading."""
