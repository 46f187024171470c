import hashlib
import os
import threading


def drain(term, until=None):
    """Output until a text shows or the session ends, and the last event."""
    seen = b""
    for event in term:
        if event.type == "output":
            seen += event.data
            if until and until in seen:
                return seen, event
        elif event.type in ("exit", "error"):
            return seen, event
    return seen, None


def test_input_may_come_before_the_session_has_begun(capsule):
    with capsule.pty() as term:
        term.write(b"echo pty-result-$((40+2)); exit 3\n")
        seen, last = drain(term)
        assert b"pty-result-42" in seen and last.exit_code == 3
        assert term.tag.startswith("pty-") and term.pid > 0


def test_command_arguments_environment_directory_and_size(capsule):
    with capsule.pty(cmd="/bin/echo", args=["said", "so"]) as term:
        seen, last = drain(term)
        assert b"said so" in seen and last.exit_code == 0
    with capsule.pty(envs={"MARK": "env-mark"}, cwd="/tmp", cols=100, rows=30) as term:
        term.write(b"echo $MARK $PWD; stty size\n")
        seen, _ = drain(term, b"30 100")
        assert b"env-mark /tmp" in seen
        term.resize(132, 43)
        term.write(b"stty size\n")
        assert b"43 132" in drain(term, b"43 132")[0]
    with capsule.pty(cwd="/no/such/directory") as term:
        assert drain(term)[1].type == "error"


def test_a_session_outlives_its_socket_and_is_found_by_its_tag(capsule):
    opened = capsule.pty()
    term = opened.__enter__()
    term.write(b"stty -echo; MARK=kept; echo ready-$((1+1))\n")
    drain(term, b"ready-2")
    tag = term.tag
    # The socket goes away without a word, as a network does.
    term._ws.close()
    with capsule.pty_connect(tag) as again:
        again.write(b"echo found-$MARK\n")
        assert b"found-kept" in drain(again, b"found-kept")[0]


def test_kill_ends_a_session_that_listens_to_nothing(capsule):
    with capsule.pty(cmd="/bin/sh", args=["-c", "trap '' HUP INT TERM; echo deaf; while :; do sleep 1; done"]) as term:
        drain(term, b"deaf")
        term.kill()
        last = drain(term)[1]
        assert last.type == "exit" and last.exit_code == 128 + 9
        assert term.pid not in [one.pid for one in capsule.commands.list()]


def test_it_stays_usable_over_the_keepalive(capsule):
    with capsule.pty() as term:
        for event in term:
            if event.type == "ping":
                break
        term.write(b"echo still-$((20+3))\n")
        assert b"still-23" in drain(term, b"still-23")[0]


def test_ten_megabytes_pasted_into_cat_come_back_byte_for_byte(capsule):
    data = os.urandom(10_000_000)
    with capsule.pty(cmd="/bin/sh", args=["-c", f"stty raw -echo; printf go; head -c {len(data)} | cat"]) as term:
        drain(term, b"go")
        feeder = threading.Thread(target=lambda: [term.write(data[i : i + 60_000]) for i in range(0, len(data), 60_000)])
        feeder.start()
        seen, last = drain(term)
        feeder.join()
        assert last is not None and last.type == "exit" and last.exit_code == 0
        assert len(seen) == len(data) and hashlib.sha256(seen).digest() == hashlib.sha256(data).digest()


def test_an_unknown_capsule_is_an_error_inside_the_stream():
    from wrenn import Capsule
    from wrenn.client import WrennClient

    stranger = Capsule(_capsule_id="cl-0000000000000000000000000", _client=WrennClient())
    assert [event.type for event in stranger.commands.stream("true")][-1:] in (["error"], [])
    with stranger.pty() as term:
        last = drain(term)[1]
        assert last is None or last.type == "error"
