"""The ClientApp of virtual sites: finds the site's file by Flower's partition id (engine=ray)."""

from __future__ import annotations

import importlib
import os
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from cardionets_core.errors import ConfigError

# Flower looks for the word `app` in this list before it imports the module.
__all__ = ["VIRTUAL_SITES_ENV", "VirtualSites", "app", "load_client_app", "virtual_site"]  # noqa: F822

VIRTUAL_SITES_ENV = "CARDIONETS_VIRTUAL_SITES"
CLIENT_APP_ENV = "CARDIONETS_VIRTUAL_CLIENT_APP"
CLIENT_APP = "client.client_app:app"


def virtual_site(partition: int, folder: Path) -> Path:
    """Return the file of a virtual site: the partition-th YAML of a folder, sorted by name.

    Raises:
        ConfigError: there is no such file.
    """
    files = sorted(folder.glob("*.yaml"))
    if not 0 <= partition < len(files):
        raise ConfigError(
            f"virtual site {partition} of {len(files)} does not exist; {VIRTUAL_SITES_ENV} must "
            "name a folder with one YAML file per virtual site"
        )
    return files[partition]


class VirtualSites(ClientApp):
    """A ClientApp that runs another one as the virtual site that a message is for.

    Ray reuses its processes for all sites, so SITE_CONFIG is set anew for each message.

    Args:
        client_app: the ClientApp of a single site.
    """

    def __init__(self, client_app: ClientApp) -> None:
        super().__init__()
        self._client_app = client_app

    def __call__(self, message: Message, context: Context) -> Message:
        """Answer a message as the site whose partition id stands in the node config."""
        folder = Path(os.environ[VIRTUAL_SITES_ENV])
        partition = int(context.node_config["partition-id"])
        os.environ["SITE_CONFIG"] = str(virtual_site(partition, folder))
        return self._client_app(message, context)


def load_client_app(reference: str) -> ClientApp:
    """Import the ClientApp that a `module:attribute` names."""
    module, _, attribute = reference.partition(":")
    loaded = getattr(importlib.import_module(module), attribute)
    if not isinstance(loaded, ClientApp):
        raise ConfigError(f"{reference} is no ClientApp")
    return loaded


def __getattr__(name: str) -> ClientApp:
    """Make `app` when Flower asks for it: the real one imports torch."""
    if name != "app":
        raise AttributeError(name)
    return VirtualSites(load_client_app(os.environ.get(CLIENT_APP_ENV, CLIENT_APP)))
