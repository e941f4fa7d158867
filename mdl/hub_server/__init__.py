"""Being a Hub: what clients with `HF_ENDPOINT` set ask, answered from and into this cache."""

from typing import TYPE_CHECKING

from mdl.lazy import door

if TYPE_CHECKING:
    from mdl.hub_server.config import HubConfig
    from mdl.hub_server.exchange import hung_up
    from mdl.hub_server.requests import is_hub_path
    from mdl.hub_server.server import HubServer

__getattr__ = door(
    __name__,
    {
        "config": "HubConfig",
        "exchange": "hung_up",
        "requests": "is_hub_path",
        "server": "HubServer",
    },
)
