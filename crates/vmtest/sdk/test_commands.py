import httpx
import pytest
from conftest import until
from wrenn.exceptions import WrennError, WrennNotFoundError


def test_output_errors_and_codes(capsule):
    done = capsule.commands.run("echo out; echo err >&2; exit 42")
    assert (done.stdout, done.stderr, done.exit_code) == ("out\n", "err\n", 42)
    assert capsule.commands.run("sleep 1").duration_ms >= 900
    assert capsule.commands.run("printf 'a\\nb\\nc\\n'").stdout.splitlines() == ["a", "b", "c"]


def test_bytes_that_are_no_text_come_back_all_the_same(capsule):
    assert "tail" in capsule.commands.run("printf '\\377\\000tail'").stdout


def test_environment_and_directory_belong_to_one_command(capsule):
    run = capsule.commands.run
    odd = "two words 'quoted' \"and\" $HOME;`x` é"
    assert run("printf %s \"$ODD\"", envs={"ODD": odd, "MORE": "1"}).stdout == odd
    assert run("echo ${ODD:-nothing}").stdout == "nothing\n"
    assert run("pwd").stdout == "/home/wrenn-user\n"
    assert run("pwd", cwd="/tmp").stdout == "/tmp\n"
    run("cd /tmp")
    assert run("pwd").stdout == "/home/wrenn-user\n"
    with pytest.raises(WrennError):
        run("true", cwd="/no/such/directory")
    assert run("echo $HOME; echo $PATH; id -un").stdout.splitlines()[0::2] == ["/home/wrenn-user", "wrenn-user"]
    assert "/usr/bin" in run("echo $PATH").stdout
    assert run("sudo -n id -u && sudo head -c 5 /etc/shadow").stdout == "0\nroot:"


def test_a_time_out_is_an_error_and_not_an_exit_code(capsule):
    with pytest.raises((WrennError, httpx.HTTPStatusError)) as caught:
        capsule.commands.run("sleep 20", timeout=2)
    assert getattr(caught.value, "status_code", 500) >= 400


def test_background_processes_are_listed_attached_to_and_killed(capsule):
    commands = capsule.commands
    handle = commands.run("for i in 1 2 3 4 5 6; do echo tick $i; sleep 0.2; done", background=True, tag="sdk-tick")
    assert handle.pid > 0 and handle.tag == "sdk-tick"
    assert handle.pid in [one.pid for one in commands.list()]
    events = list(commands.connect(handle.pid))
    assert "tick" in "".join(e.data for e in events if e.type == "stdout")
    assert events[-1].type == "exit" and events[-1].exit_code == 0
    # Ended: no exception, whatever is still known of it.
    list(commands.connect(handle.pid))
    long = commands.run("sleep 300", background=True)
    commands.kill(long.pid)
    until("it is gone", lambda: long.pid not in [one.pid for one in commands.list()], 5)
    with pytest.raises(WrennNotFoundError):
        commands.kill(long.pid)


def test_streams_carry_both_outputs_and_the_code(capsule):
    events = list(capsule.commands.stream("echo out; echo err >&2; exit 5"))
    assert events[0].type == "start" and events[0].pid > 0
    text = lambda kind: "".join(e.data for e in events if e.type == kind)
    assert (text("stdout"), text("stderr")) == ("out\n", "err\n")
    assert events[-1].type == "exit" and events[-1].exit_code == 5
    assert "".join(e.data for e in capsule.commands.stream("/bin/echo", args=["a b", "c"]) if e.type == "stdout") == "a b c\n"
