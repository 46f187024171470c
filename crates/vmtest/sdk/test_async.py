import asyncio

from wrenn import AsyncCapsule
from wrenn.client import AsyncWrennClient


def test_the_async_client_does_the_same():
    asyncio.run(everything())


async def everything():
    async with await AsyncCapsule.create(wait=True) as made:
        done = await made.commands.run("echo out; exit 7")
        assert (done.stdout, done.exit_code) == ("out\n", 7)
        await made.files.write("/tmp/a/b", "text")
        assert await made.files.read("/tmp/a/b") == "text"
        assert await made.files.exists("/tmp/a/b")
        assert [entry.name for entry in await made.files.list("/tmp/a")] == ["b"]
        await made.files.make_dir("/tmp/a/c")

        async def pieces():
            for _ in range(10):
                yield b"x" * 100_000

        await made.files.upload_stream("/tmp/a/big", pieces())
        size = 0
        async for piece in made.files.download_stream("/tmp/a/big"):
            size += len(piece)
        assert size == 1_000_000
        await made.files.remove("/tmp/a/big")
        events = [event async for event in made.commands.stream("echo streamed")]
        assert "".join(e.data for e in events if e.type == "stdout") == "streamed\n"
        handle = await made.commands.run("sleep 0.5; echo later", background=True)
        assert handle.pid in [one.pid for one in await made.commands.list()]
        attached = [event async for event in made.commands.connect(handle.pid)]
        assert "later" in "".join(e.data for e in attached if e.type == "stdout")
        async with made.pty() as term:
            await term.write(b"echo async-$((4+4)); exit\n")
            seen = b""
            async for event in term:
                if event.type == "output":
                    seen += event.data
                elif event.type == "exit":
                    break
            assert b"async-8" in seen
        await made.git.init("/tmp/async-repo", initial_branch="main")
        assert (await made.git.status(cwd="/tmp/async-repo")).branch == "main"
        await made.pause(wait=True)
        await made.resume(wait=True)
        assert await made.is_running()
        await made.ping()
        async with AsyncWrennClient() as client:
            assert made.capsule_id in [one.id for one in await client.capsules.list()]
            assert (await client.capsules.stats()).current is not None
            assert (await client.capsules.usage()).points is not None
            assert (await client.capsules.metrics(made.capsule_id)).sandbox_id == made.capsule_id
            assert "minimal" in [one.name for one in await client.snapshots.list()]
