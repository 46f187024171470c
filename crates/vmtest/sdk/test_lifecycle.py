import pytest
from conftest import until
from wrenn import Capsule
from wrenn.exceptions import WrennConflictError, WrennNotFoundError, WrennValidationError
from wrenn.models import Status


def test_a_destroyed_capsule_is_still_found_and_stopped(client):
    made = Capsule.create(wait=True)
    assert made.is_running() and made.info.id == made.capsule_id
    made.destroy(wait=True)
    assert client.capsules.get(made.capsule_id).status in (Status.stopped, Status.missing)
    # A repeated delete is what the SDK does after a lost answer.
    client.capsules.destroy(made.capsule_id)


def test_the_context_destroys_and_the_static_forms_work_by_id():
    with Capsule(wait=True) as made:
        other = made.capsule_id
        assert Capsule.get_info(other).status == Status.running
        assert other in [one.id for one in Capsule.list()]
    assert Capsule.get_info(other).status in (Status.stopping, Status.stopped, Status.missing)
    second = Capsule.create(vcpus=1, memory_mb=256, timeout=0)
    second.wait_ready(60)
    info = second.get_info()
    assert (info.vcpus, info.memory_mb, info.timeout_sec, info.template) == (1, 256, 0, "minimal")
    assert info.created_at.tzinfo is not None and info.started_at is not None
    Capsule.destroy(second.capsule_id, wait=True)


def test_pause_and_resume_keep_memory_and_connect_resumes():
    with Capsule(wait=True) as made:
        made.commands.run("echo kept > /dev/shm/mark")
        assert made.pause(wait=True).status == Status.paused
        assert not made.is_running()
        with pytest.raises(WrennConflictError):
            made.commands.run("true")
        assert made.resume(wait=True).status == Status.running
        assert made.commands.run("cat /dev/shm/mark").stdout == "kept\n"
        made.ping()
        made.pause()
        again = Capsule.connect(made.capsule_id)
        until("it runs", again.is_running)
        assert again.commands.run("cat /dev/shm/mark").stdout == "kept\n"
        Capsule.pause(made.capsule_id, wait=True)
        Capsule.resume(made.capsule_id, wait=True)


def test_short_time_outs_become_a_minute(client):
    made = client.capsules.create(timeout_sec=5)
    assert made.timeout_sec == 60
    client.capsules.destroy(made.id)


def test_a_snapshot_becomes_a_template_and_goes_again(client, capsule):
    capsule.commands.run("echo part > ~/part-of-it")
    capsule.create_snapshot(name="sdk-snapshot")
    names = lambda kind=None: [one.name for one in client.snapshots.list(type=kind)]
    until("the snapshot is listed", lambda: "sdk-snapshot" in names("snapshot"))
    until("its source runs on", capsule.is_running)
    assert "minimal" in names() and "sdk-snapshot" not in names("base")
    with Capsule(template="sdk-snapshot", wait=True) as copy:
        assert copy.commands.run("cat ~/part-of-it").stdout == "part\n"
    client.snapshots.delete("sdk-snapshot")
    assert "sdk-snapshot" not in names()
    capsule.files.remove("/home/wrenn-user/part-of-it")


def test_errors_have_the_classes_the_sdk_knows(client):
    with pytest.raises(WrennNotFoundError):
        client.capsules.get("cl-0000000000000000000000000")
    with pytest.raises(WrennValidationError):
        client.capsules.create(memory_mb=1)
    with pytest.raises(WrennNotFoundError):
        client.capsules.create(template="never-made")
    with pytest.raises(WrennNotFoundError):
        client.snapshots.delete("never-made")
