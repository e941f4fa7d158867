"""A small, faithful Hugging Face Hub on a loopback socket, for tests and the demo."""

from tests.hub.faults import Fault, Request
from tests.hub.hub import LoopbackHub, free_port

__all__ = ["Fault", "LoopbackHub", "Request", "free_port"]
