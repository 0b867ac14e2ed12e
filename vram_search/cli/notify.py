"""`vram-search notify`: a test message to every receiver."""

from __future__ import annotations

import click

from vram_search.cli.console import echo
from vram_search.errors import InputError, VramSearchError


@click.command("notify", short_help="Send a test message to every receiver.")
def command() -> None:
    """Sends a test message to every receiver of config.yaml.

    `notify:` in config.yaml, in the folder of the default database, names the environment
    variables and files that hold the URLs. It needs the package of the extra `notify`.

    \b
    Examples:
      vram-search notify
    """
    from vram_search.outbound.apprise_receiver import AppriseReceiver, apprise_receivers
    from vram_search.outbound.messages import Message
    from vram_search.outbound.receiver import SendError
    from vram_search.outbound.settings import config_file, load_settings

    receivers = apprise_receivers(load_settings().notify)
    if not receivers:
        raise InputError(
            f"no receiver is configured in {config_file()}",
            "write there, for example: notify: {url_env: [VRAM_SEARCH_NTFY]}",
        )
    failed = 0
    for receiver in receivers:
        assert isinstance(receiver, AppriseReceiver)
        try:
            receiver.deliver(Message("vram-search: test", "This receiver gets messages."))
            echo(f"{receiver.name}: sent")
        except SendError as error:
            failed += 1
            echo(str(error), err=True)
    if failed:
        raise VramSearchError(
            f"{failed} of {len(receivers)} receivers failed", "check the URLs and the network"
        )
