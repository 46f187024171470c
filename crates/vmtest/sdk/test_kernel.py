import pathlib
import socket

import pytest
from wrenn.code_runner import Capsule

SERVER = pathlib.Path(__file__).with_name("kernel.pl")


@pytest.fixture
def names_below_localhost(monkeypatch):
    """RFC 6761 sends them to the loopback; not every C library does."""
    ask = socket.getaddrinfo
    own = lambda host: "127.0.0.1" if isinstance(host, str) and host.endswith(".localhost") else host
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: ask(own(host), *rest, **more))


def test_a_kernel_is_found_started_and_talked_to_through_the_proxy(capsule, names_below_localhost, monkeypatch):
    # Names need a host name to stand before: an address has no subdomains.
    port = capsule._client._base_url.rsplit(":", 1)[-1].strip("/")
    monkeypatch.setenv("WRENN_PROXY_DOMAIN", f"proxy.localhost:{port}")
    with Capsule(template="minimal", kernel="perl", wait=True) as made:
        assert made.info.template == "minimal"
        made.files.write("/tmp/kernel.pl", SERVER.read_text())
        # Asked before it listens: the proxy's 502 says "not yet" to the SDK.
        made.commands.run("sleep 1; exec perl /tmp/kernel.pl", background=True)
        first = made.run_code("our $x = 40; $x + 2")
        assert (first.text, first.execution_count, first.error) == ("42", 1, None), first
        seen = []
        second = made.run_code("$x++; print \"it is $x\\n\"; undef", on_stdout=seen.append)
        assert second.logs.stdout == ["it is 41\n"] == seen and second.results == []
        failed = made.run_code("die 'no such thing'")
        assert failed.error.name == "PerlError" and "no such thing" in failed.error.value
        # One message larger than any buffer on its way, both ways.
        large = made.run_code("length('" + "x" * 1_000_000 + "')")
        assert large.text == "1000000"
        assert len(made.run_code("'y' x 1_000_000").text) >= 1_000_000
        kernel = made._kernel_id
        made.close()
        assert made.run_code("$x").text == "41" and made._kernel_id == kernel, "another socket, the same kernel"
