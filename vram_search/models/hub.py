"""Reads a model's config.json from the local Hugging Face cache or from the hub."""

from __future__ import annotations

import os
import socket
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

from vram_search.errors import ModelNotFoundError, first_line
from vram_search.extras import missing_package

CONNECT_SECONDS = 3.0
"""A hub that does not answer for so long is treated as out of reach: huggingface_hub itself would
try for half a minute."""
_PORTS = {"https": 443, "socks5": 1080, "socks5h": 1080}
DOWNLOAD_REMEDY = (
    "download it on a machine with network (`hf download {name} config.json`), or give a folder "
    "with its config.json"
)


def cached_config(name: str) -> Path | None:
    """Returns the config.json of a hub name in the local cache; None where it is not there."""
    if find_spec("huggingface_hub") is None:
        return None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def download_config(name: str) -> Path:
    """Downloads the config.json of a hub name into the local cache. Needs network.

    Raises:
        ModelNotFoundError: no network, no such model, or a gated one without a token that may read
            it.
        InputError: huggingface_hub is not installed.
    """
    if find_spec("huggingface_hub") is None:
        raise missing_package("huggingface_hub", "asking the hub")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    remedy = DOWNLOAD_REMEDY.format(name=name)
    if not is_online():
        raise ModelNotFoundError(
            f"model {name!r} is not on this machine, and the hub is out of reach", remedy
        )
    try:
        return Path(hf_hub_download(name, "config.json"))
    except GatedRepoError:
        raise ModelNotFoundError(
            f"model {name!r} is gated: its publisher wants you to accept its licence",
            f"accept it on the model's page, then set HF_TOKEN or run `hf auth login`; or {remedy}",
        ) from None
    except (RepositoryNotFoundError, HFValidationError):
        raise ModelNotFoundError(
            f"model {name!r} does not exist on the hub, or is private",
            "correct the name; for a private model set HF_TOKEN",
        ) from None
    except LocalEntryNotFoundError:
        raise ModelNotFoundError(f"model {name!r}: the hub is out of reach", remedy) from None
    except EntryNotFoundError:
        raise ModelNotFoundError(
            f"model {name!r} has no config.json on the hub",
            "it may hold GGUF files or an adapter alone: name the model that it was made from",
        ) from None
    except (HfHubHTTPError, OSError) as error:
        raise ModelNotFoundError(
            f"model {name!r}: the hub answered {first_line(error)}", remedy
        ) from None


def is_online() -> bool:
    """True if the hub, or the proxy that leads to it, can be reached and may be asked."""
    from urllib.request import getproxies, proxy_bypass

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or os.environ.get("TRANSFORMERS_OFFLINE") == "1":
        return False
    address = urlsplit(constants.ENDPOINT)
    proxies = getproxies()
    proxy = proxies.get(address.scheme) or proxies.get("all")
    try:
        if proxy and not proxy_bypass(address.hostname or ""):
            address = urlsplit(proxy if "//" in proxy else f"//{proxy}")
        port = address.port or _PORTS.get(address.scheme, 80)
        socket.create_connection((address.hostname or "", port), CONNECT_SECONDS).close()
    except (OSError, ValueError):  # ValueError: an address that is none
        return False
    return True
