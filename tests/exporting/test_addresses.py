"""Nothing is fetched from a machine that only this one can reach, however it is written."""

import asyncio
import shutil
import socket
import subprocess
import threading

import pytest
from local_site import serving

from core.exporting import addresses
from core.exporting.addresses import Refused, fetch, is_public

NAME = "files.example"
MOST = 10_000
OWN = [
    *("127.0.0.1", "127.8.9.10", "10.1.2.3", "172.16.0.1", "192.168.1.1"),
    "100.64.0.1",  # of a carrier
    *("169.254.169.254", "168.63.129.16", "192.0.0.192", "100.100.100.200"),  # metadata of clouds
    *("0.0.0.0", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1"),
    *("198.18.0.1", "192.88.99.1", "::", "::1", "fe80::1", "fe80::1%1", "fc00::1"),
    *("fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1", "2001:db8::1", "3fff::1"),
    *("::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "::127.0.0.1"),
    *("64:ff9b::127.0.0.1", "64:ff9b::8.8.8.8", "64:ff9b:1::10.0.0.1", "2002:7f00:1::1"),
    *("2001:0:7f00:1::1", "5f00::1"),
]
PUBLIC = ["8.8.8.8", "93.184.215.14", "192.0.1.1", "2606:4700:4700::1111", "2a00:1450:4001::1"]


@pytest.mark.parametrize("found", OWN)
def test_an_address_that_is_not_public_is_refused(found):
    assert not is_public(found)


@pytest.mark.parametrize("found", PUBLIC)
def test_a_public_address_is_let_through(found):
    assert is_public(found)


# --- a web server of a test ----------------------------------------------------------------------


@pytest.fixture
def site():
    with serving() as one:
        one.answers["/file"] = (200, {}, b"what is here")
        yield one


class Names:
    """What names mean: a list of answers, the last of which stays; and how often it was asked."""

    def __init__(self, monkeypatch) -> None:
        self.means: dict[str, list[list[str]]] = {}
        self.looked_up: list[str] = []
        real = socket.getaddrinfo

        def looked_up(host, port, *arguments, **options):
            host = host.decode() if isinstance(host, bytes) else host
            if host not in self.means:
                return real(host, port, *arguments, **options)
            self.looked_up.append(host)
            answers = self.means[host]
            places = answers.pop(0) if len(answers) > 1 else answers[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (place, port)) for place in places]

        monkeypatch.setattr(socket, "getaddrinfo", looked_up)


@pytest.fixture
def names(monkeypatch):
    return Names(monkeypatch)


@pytest.fixture
def loopback_is_public(monkeypatch):
    """The one machine that a test can reach stands for a public one; others are as they are."""
    monkeypatch.setattr(
        addresses, "is_public", lambda found: found == "127.0.0.1" or is_public(found)
    )


# --- which machine is asked ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "127.1", "0", "[::ffff:127.0.0.1]"]
)
def test_this_machine_is_not_asked_however_it_is_written(site, host):
    with pytest.raises(ValueError, match=r"^[^\n]*\.$"):
        fetch(f"http://{host}:{site.port}/file", most_bytes=MOST)
    assert site.asked == []


def test_a_person_fetches_from_his_own_machine(site):
    address = f"http://127.0.0.1:{site.port}/file"
    assert fetch(address, most_bytes=MOST, allow_private=True) == b"what is here"


def test_one_address_that_is_not_public_refuses_a_host(site, names):
    names.means[NAME] = [["8.8.8.8", "127.0.0.1"]]
    with pytest.raises(Refused, match=f"^{NAME} is not a public address"):
        fetch(f"http://{NAME}:{site.port}/file", most_bytes=MOST)
    assert site.asked == []


@pytest.mark.usefixtures("loopback_is_public")
def test_a_host_is_looked_up_once_and_what_was_checked_is_asked(site, names):
    # The second look would lead elsewhere, where nothing listens.
    names.means[NAME] = [["127.0.0.1"], ["127.0.0.2"]]
    assert fetch(f"http://{NAME}:{site.port}/file", most_bytes=MOST) == b"what is here"
    assert names.looked_up == [NAME]
    assert site.asked == [(f"{NAME}:{site.port}", "/file")]


def test_a_name_that_changes_its_meaning_leads_nowhere_else(site, names, monkeypatch):
    """Public when it is checked, this machine ever after."""
    names.means[NAME] = [["8.8.8.8"], ["127.0.0.1"]]
    connected = []

    async def connect(self, protocol, host=None, port=None, **options):
        connected.append(host)
        raise ConnectionRefusedError("not from a test")

    monkeypatch.setattr(asyncio.BaseEventLoop, "create_connection", connect)
    with pytest.raises(ValueError, match="cannot be fetched"):
        fetch(f"http://{NAME}:{site.port}/file", most_bytes=MOST)
    assert connected
    assert {str(host) for host in connected} == {"8.8.8.8"}
    assert site.asked == []


def test_the_next_address_is_tried_where_one_cannot_be_reached(site, names, monkeypatch):
    names.means[NAME] = [["127.0.0.2", "127.0.0.1"]]  # nothing listens at the first
    monkeypatch.setattr(addresses, "is_public", lambda found: True)
    assert fetch(f"http://{NAME}:{site.port}/file", most_bytes=MOST) == b"what is here"


@pytest.mark.usefixtures("loopback_is_public")
def test_a_proxy_of_the_environment_looks_up_no_name(site, names, monkeypatch):
    for variable in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    names.means[NAME] = [["127.0.0.1"]]
    assert fetch(f"http://{NAME}:{site.port}/file", most_bytes=MOST) == b"what is here"


# --- redirects -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize(
    "inside", ["http://127.0.0.2:{port}/file", "//10.0.0.1/file", "http://{other}:{port}/file"]
)
def test_every_redirect_is_checked(site, names, inside):
    other = "inside.example"
    names.means |= {NAME: [["127.0.0.1"]], other: [["192.168.0.1"]]}
    target = inside.format(port=site.port, other=other)
    site.answers["/moved"] = (302, {"Location": target}, b"")
    with pytest.raises(Refused, match="is not a public address"):
        fetch(f"http://{NAME}:{site.port}/moved", most_bytes=MOST)
    assert [path for _, path in site.asked] == ["/moved"]


@pytest.mark.usefixtures("loopback_is_public")
@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://files.example/x", "gopher://x/"])
def test_a_redirect_leads_to_the_web_alone(site, names, target):
    names.means[NAME] = [["127.0.0.1"]]
    site.answers["/moved"] = (302, {"Location": target}, b"")
    with pytest.raises(Refused, match="does not begin with https://"):
        fetch(f"http://{NAME}:{site.port}/moved", most_bytes=MOST)


@pytest.mark.usefixtures("loopback_is_public")
def test_some_redirects_are_followed_and_not_more(site, names):
    names.means[NAME] = [["127.0.0.1"]]
    steps = addresses.REDIRECTS
    for step in range(steps + 1):
        target = f"/{step + 1}" if step < steps else "/file"
        site.answers[f"/{step}"] = (301, {"Location": target}, b"")
    assert fetch(f"http://{NAME}:{site.port}/1", most_bytes=MOST) == b"what is here"
    assert names.looked_up == [NAME] * (steps + 1)  # each looked up and checked anew
    with pytest.raises(ValueError, match=f"leads on more than {steps} times"):
        fetch(f"http://{NAME}:{site.port}/0", most_bytes=MOST)


# --- the certificate -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate of `NAME` that signs itself, and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate of this test")
    folder = tmp_path_factory.mktemp("certificate")
    made = (folder / "certificate.pem", folder / "key.pem")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
        + ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
        + ["-out", str(made[0]), "-keyout", str(made[1])],
        check=True,
        capture_output=True,
    )
    return made


@pytest.mark.usefixtures("loopback_is_public")
def test_the_certificate_must_be_the_names_and_not_the_addresss(certificate, names, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    names.means |= {NAME: [["127.0.0.1"]], "other.example": [["127.0.0.1"]]}
    with serving(certificate) as site:
        site.answers["/file"] = (200, {}, b"what is here")
        assert fetch(f"https://{NAME}:{site.port}/file", most_bytes=MOST) == b"what is here"
        for host in ("other.example", "127.0.0.1"):
            with pytest.raises(ValueError, match=r"cannot be fetched: .*certificate"):
                fetch(f"https://{host}:{site.port}/file", most_bytes=MOST)
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(ValueError, match=r"cannot be fetched: .*certificate"):
            fetch(f"https://{NAME}:{site.port}/file", most_bytes=MOST)


@pytest.mark.usefixtures("loopback_is_public")
def test_the_server_is_told_which_name_is_meant(names):
    """The first message of TLS holds the name, though the connection is to an address."""
    names.means[NAME] = [["127.0.0.1"]]
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def listen():
            with server.accept()[0] as connection:
                heard.append(connection.recv(4096))

        thread = threading.Thread(target=listen)
        thread.start()
        with pytest.raises(ValueError, match="cannot be fetched"):
            fetch(f"https://{NAME}:{server.getsockname()[1]}/file", most_bytes=MOST)
        thread.join()
    assert NAME.encode() in heard[0]


# --- how much, and how long ----------------------------------------------------------------------


@pytest.mark.usefixtures("loopback_is_public")
def test_a_content_is_read_as_far_as_the_limit(site, names):
    names.means[NAME] = [["127.0.0.1"]]
    site.answers["/large"] = (200, {}, b"x" * 3_000_000)
    seen = []
    with pytest.raises(ValueError, match="has more than 1 MB"):
        fetch(f"http://{NAME}:{site.port}/large", most_bytes=2**20, progress=seen.append)
    assert seen
    assert max(seen) <= 2**20


@pytest.mark.usefixtures("loopback_is_public")
def test_what_is_packed_is_not_unpacked(site, names):
    names.means[NAME] = [["127.0.0.1"]]
    site.answers["/packed"] = (200, {"Content-Encoding": "gzip"}, b"\x1f\x8b")
    with pytest.raises(ValueError, match=r"is sent packed \(gzip\)"):
        fetch(f"http://{NAME}:{site.port}/packed", most_bytes=MOST)


@pytest.mark.usefixtures("loopback_is_public")
def test_the_time_is_of_the_whole_and_not_of_a_read(site, names):
    names.means[NAME] = [["127.0.0.1"]]
    site.answers["/file"] = (200, {}, b"x" * 1000)
    site.slow = 0.05  # every read is quick; the whole would take 50 seconds
    with pytest.raises(ValueError, match=r"did not arrive within 0\.3 seconds"):
        fetch(f"http://{NAME}:{site.port}/file", most_bytes=MOST, seconds=0.3)


@pytest.mark.usefixtures("loopback_is_public")
def test_headers_that_never_end_are_not_waited_for(names):
    names.means[NAME] = [["127.0.0.1"]]
    end = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip():
            with server.accept()[0] as connection:
                connection.recv(4096)
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not end.wait(0.02):
                    try:
                        connection.sendall(b"X-More: 1\r\n")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        address = f"http://{NAME}:{server.getsockname()[1]}/file"
        try:
            with pytest.raises(ValueError, match="did not arrive within"):
                fetch(address, most_bytes=MOST, seconds=0.3)
        finally:
            end.set()
            thread.join()


# --- other mistakes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "http://",
        "http:///file",
        "http://[bad/file",
        "http://a\n/file",
        f"http://{'a' * 70}.example/file",
        "http://..example/file",
        "file:///etc/passwd",
        "settings.json",
        "",
    ],
)
@pytest.mark.parametrize("allow_private", [False, True])
def test_what_is_no_address_ends_in_one_sentence(address, allow_private):
    with pytest.raises(ValueError, match=r"^[^\n]*\.$"):
        fetch(address, most_bytes=MOST, allow_private=allow_private)


def test_a_public_server_fetches_nothing(site, monkeypatch):
    monkeypatch.setenv("SENTITRACE_PUBLIC", "1")
    for allow_private in (False, True):
        with pytest.raises(Refused, match="fetches nothing from an address"):
            fetch(
                f"http://127.0.0.1:{site.port}/file", most_bytes=MOST, allow_private=allow_private
            )
    assert site.asked == []
