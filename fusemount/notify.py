"""Tells systemd how the service is (sd_notify's protocol).

Written here because the packages for it cannot hand over descriptors, which surviving a restart
of the whole service needs.
"""

import os
import socket


def notify_systemd(*assignments: str) -> bool:
    """Send assignments like ``READY=1``; False where no service manager asked for them."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    # A path in a status may hold a line's end or bytes that are no text.
    lines = (assignment.replace("\n", " ") for assignment in assignments)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notifier:
        try:
            notifier.sendto(os.fsencode("\n".join(lines)), address)
        except OSError:
            return False
    return True
