"""What is behind an address of the web, without asking machines of this machine's own network?

Whoever fetches for somebody else can be made to ask what only he can reach: himself, his
neighbours, the metadata service of his cloud (server-side request forgery). So a host is looked up
once, every address that it has must be public, and the connection goes to an address that was
checked: a name that means something else at the next look (DNS rebinding) is not looked up again.
Every redirect is a new address, which passes the same check.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..server.limits import limits

if TYPE_CHECKING:
    import httpx2

SECONDS = 30.0
"""For all of it: looking up, connecting, redirects and the content."""

REDIRECTS = 5
SCHEMES = {"http": 80, "https": 443}

_UNICAST = ipaddress.ip_network("2000::/3")  # all of IPv6 that is given out to the public
_SPECIAL = [
    ipaddress.ip_network(written)
    for written in (
        "192.0.0.0/24",  # protocols, and metadata of one cloud (192.0.0.192)
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # public by its number, and the metadata of another cloud
        "2001::/23",  # Teredo, which holds an IPv4 address, and other protocols
        "2002::/16",  # 6to4, which holds an IPv4 address
        "3fff::/20",  # documentation
    )
]
"""What `ipaddress` calls global, in one or another version of Python, and nobody should be led to.

Other addresses that hold one of IPv4 (mapped, translated, NAT64) are outside of 2000::/3.
"""


class Refused(UserError):
    """An address that is not fetched from, whatever is behind it."""


def fetch(
    address: str,
    *,
    most_bytes: int,
    allow_private: bool = False,
    seconds: float = SECONDS,
    progress: Callable[[int], None] | None = None,
) -> bytes:
    """What is behind an address.

    Args:
        address: begins with http:// or https://.
        most_bytes: of the content.
        allow_private: also of this machine and its network, as its owner sees them: for what a
            person asks of his own machine, never for what a page is asked.
        seconds: in all.
        progress: called with the bytes so far; an exception that it raises ends the work.

    Raises:
        Refused: the server is public, or the address is none that may be fetched from.
        ValueError: it cannot be fetched, or is too large.
    """
    import httpx2

    if limits().public:
        raise Refused(
            "This server fetches nothing from an address; save the file and open it from your disk."
        )
    work = _fetched(address, most_bytes, allow_private, progress)
    try:
        return asyncio.run(_within(seconds, work))
    except TimeoutError as error:
        raise UserError(
            f"{address!r} did not arrive within {seconds:g} seconds; save the file and open it "
            "from your disk."
        ) from error
    except httpx2.HTTPStatusError as error:
        raise UserError(
            f"{address!r} cannot be fetched: the server answered {error.response.status_code}; "
            "check the address."
        ) from error
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, UnicodeError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0].rstrip(".") if lines else type(error).__name__
        raise UserError(f"{address!r} cannot be fetched: {reason}; check the address.") from error


def is_public(found: str) -> bool:
    """Whether an address of IPv4 or IPv6 is of a single machine that everybody can reach."""
    there = ipaddress.ip_address(found)
    return (
        there.is_global
        and not there.is_multicast
        and not there.is_reserved
        and (there.version == 4 or there in _UNICAST)
        and not any(there in special for special in _SPECIAL)
    )


async def _within(seconds: float, work: Any) -> bytes:
    # The clients' own limits are of a single read: one byte a second would pass them for ever.
    async with asyncio.timeout(seconds):
        content: bytes = await work
        return content


async def _fetched(
    address: str,
    most_bytes: int,
    allow_private: bool,
    progress: Callable[[int], None] | None,
) -> bytes:
    import httpx2

    url = httpx2.URL(address)
    # A proxy would look the name up once more, by itself.
    async with httpx2.AsyncClient(
        timeout=SECONDS, trust_env=allow_private, verify=httpx2.create_ssl_context()
    ) as client:
        for _ in range(REDIRECTS + 1):
            answer = await _asked(client, url, allow_private)
            try:
                if answer.has_redirect_location:
                    url = url.join(answer.headers["location"])
                    continue
                answer.raise_for_status()
                return await _content(answer, address, most_bytes, progress)
            finally:
                await answer.aclose()
    raise UserError(
        f"{address!r} leads on more than {REDIRECTS} times; give the address of the file itself."
    )


async def _asked(
    client: httpx2.AsyncClient, url: httpx2.URL, allow_private: bool
) -> httpx2.Response:
    """The answer of an address, its content not yet read."""
    import httpx2

    if url.scheme not in SCHEMES or not url.host:
        raise Refused(f"The address {str(url)!r} does not begin with https:// or http://.")
    # What is packed could unpack to any size.
    headers = {"Accept-Encoding": "identity", "Host": url.netloc.decode("ascii")}
    if allow_private:
        return await client.send(client.build_request("GET", url, headers=headers), stream=True)
    places = await _looked_up(url)
    for number, place in enumerate(places):
        request = client.build_request(
            "GET",
            url.copy_with(host=place),
            headers=headers,
            extensions={"sni_hostname": _host(url)},  # whose certificate it must be
        )
        try:
            return await client.send(request, stream=True)
        except httpx2.ConnectError:
            if number == len(places) - 1:  # none of them can be reached
                raise
    raise AssertionError("A host that was looked up has an address.")


async def _looked_up(url: httpx2.URL) -> list[str]:
    """The addresses of a host, all of them public."""
    loop = asyncio.get_running_loop()
    port = url.port or SCHEMES[url.scheme]
    found = await loop.getaddrinfo(_host(url), port, type=socket.SOCK_STREAM)
    places = list(dict.fromkeys(str(place[4][0]) for place in found))
    if not all(map(is_public, places)):
        # What the name means here is not told: it would describe this machine's network.
        raise Refused(
            f"{url.host} is not a public address, and nothing is fetched from others; save the "
            "file and open it from your disk."
        )
    return places


def _host(url: httpx2.URL) -> str:
    """The host as it is looked up, and as certificates name it."""
    return url.raw_host.decode("ascii")


async def _content(
    answer: httpx2.Response,
    address: str,
    most_bytes: int,
    progress: Callable[[int], None] | None,
) -> bytes:
    packed = answer.headers.get("content-encoding", "")
    if packed not in ("", "identity"):
        raise UserError(
            f"{address!r} is sent packed ({packed}), which is not read; save the file and open it "
            "from your disk."
        )
    received = bytearray()
    async for part in answer.aiter_raw():
        received += part
        if len(received) > most_bytes:
            raise UserError(
                f"What is at {address!r} has more than {most_bytes / 2**20:,.0f} MB; give the "
                "settings file itself."
            )
        if progress is not None:
            progress(len(received))
    return bytes(received)
