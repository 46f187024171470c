import datetime
import threading

import httpx
import pytest
from conftest import until
from wrenn import Capsule
from wrenn.client import WrennClient
from wrenn.exceptions import WrennNotFoundError


def test_events_tell_of_a_capsules_life():
    seen, ready = [], threading.Event()

    def listen():
        with WrennClient() as client:
            for event in client.events.stream():
                seen.append(event)
                ready.set()

    threading.Thread(target=listen, daemon=True).start()
    assert ready.wait(15), "the stream says connected"
    with Capsule(wait=True) as made:
        pass
    kinds = lambda: {e.event.value for e in seen if e.resource and e.resource.id == made.capsule_id}
    until("both events arrive", lambda: {"capsule.create", "capsule.destroy"} <= kinds(), 15)
    created = next(e for e in seen if e.event.value == "capsule.create" and e.resource.id == made.capsule_id)
    assert created.outcome.value == "success" and created.timestamp.tzinfo is not None
    assert created.sandbox is None or created.sandbox.id == made.capsule_id


def test_statistics_and_usage(client, capsule):
    stats = client.capsules.stats()
    assert stats.current is not None and stats.peaks is not None
    assert client.capsules.stats(range="24h").range.value == "24h"
    until("the running one is counted", lambda: client.capsules.stats(range="5m").current.running_count >= 1)
    assert client.capsules.usage().points is not None
    today = datetime.datetime.now(datetime.timezone.utc).date()
    points = client.capsules.usage(from_=today - datetime.timedelta(days=2), to=today).points
    assert len(points) == 3 and points[-1].cpu_minutes >= 0


def test_metrics(client, capsule):
    points = until("there are points", lambda: client.capsules.metrics(capsule.capsule_id).points)
    assert points[-1].mem_bytes > 0 and points[-1].disk_bytes > 0 and points[-1].cpu_pct >= 0
    assert client.capsules.metrics(capsule.capsule_id, range="2h").sandbox_id == capsule.capsule_id
    with Capsule(wait=True) as made:
        pass
    Capsule.destroy(made.capsule_id, wait=True)
    with pytest.raises(WrennNotFoundError):
        client.capsules.metrics(made.capsule_id)


def test_ports_are_reached_by_host_name(client, capsule):
    capsule.files.write("/tmp/site/index.html", "from the capsule")
    script = "use IO::Socket::INET; my $s = IO::Socket::INET->new(LocalAddr=>'127.0.0.1', LocalPort=>8123, Listen=>5, ReuseAddr=>1) or die; while (my $c = $s->accept) { while (<$c>) { last if /^\\r?$/ } print $c \"HTTP/1.1 200 OK\\r\\nContent-Length: 16\\r\\nConnection: close\\r\\n\\r\\nfrom the capsule\"; close $c }"
    capsule.files.write("/tmp/site/serve.pl", script)
    capsule.commands.run("perl /tmp/site/serve.pl", background=True)
    url = httpx.URL(capsule.get_url(8123))
    assert url.host.startswith(f"8123-{capsule.capsule_id}.")
    base = client.http.base_url

    def get():
        # Names below localhost need not resolve: the name goes into the Host header.
        return httpx.get(base.copy_with(path="/index.html"), headers={"Host": url.netloc.decode()}, timeout=10)

    until("the server answers", lambda: get().status_code == 200)
    assert get().text == "from the capsule"
    unused = httpx.get(base, headers={"Host": url.netloc.decode().replace("8123-", "8124-")}, timeout=30)
    assert unused.status_code == 502
