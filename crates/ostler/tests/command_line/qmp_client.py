"""A session of the QEMU project's own client: its arguments are the control socket and a disk image."""

import asyncio
import os
import sys

from qemu.qmp import ExecuteError, QMPClient


async def refused(client, command, arguments, error_class):
    try:
        await client.execute(command, arguments)
    except ExecuteError as error:
        assert error.error_class == error_class, (command, error.error_class, str(error))
        return
    raise AssertionError(f"{command} was not refused")


async def main(path, image):
    one, two = QMPClient("one"), QMPClient("two")
    await one.connect(path)
    await two.connect(path)
    assert one.greeting.QMP.capabilities == [], one.greeting

    commands = {entry["name"] for entry in await one.execute("query-commands")}
    assert {"device_add", "blockdev-add", "query-status"} <= commands, commands
    schema = await one.execute("query-qmp-schema")
    described = {entry["name"] for entry in schema if entry["meta-type"] == "command"}
    assert described == commands, described ^ commands
    assert (await one.execute("query-name"))["name"] == "mare"
    with two.listener(("STOP", "RESUME")) as events:
        await one.execute("stop")
        assert (await events.get())["event"] == "STOP"
        assert (await two.execute("query-status"))["status"] == "paused"
        await one.execute("cont")
        event = await events.get()
        assert event["event"] == "RESUME" and event["timestamp"]["seconds"] > 1_700_000_000, event

    await refused(one, "fly", None, "CommandNotFound")
    await refused(one, "device_del", {"id": "none"}, "DeviceNotFound")
    await refused(one, "query-balloon", None, "DeviceNotActive")
    await refused(one, "set_link", {"name": "none"}, "GenericError")

    # Many at a time: answers find their questions by id.
    answers = await asyncio.gather(*(one.execute("query-status") for _ in range(100)))
    assert all(answer["running"] for answer in answers)

    fd = os.open(image, os.O_RDWR)
    one.send_fd_scm(fd)
    os.close(fd)
    added = await one.execute("add-fd", {"opaque": "an image"})
    name = f"/dev/fdset/{added['fdset-id']}"
    await one.execute(
        "blockdev-add",
        {"driver": "raw", "node-name": "node", "file": {"driver": "file", "filename": name}},
    )
    await one.execute("device_add", {"driver": "virtio-blk-pci", "id": "disk", "drive": "node"})
    disks = await two.execute("query-block")
    assert [disk["inserted"]["node-name"] for disk in disks] == ["node"], disks
    with two.listener("DEVICE_DELETED") as events:
        # The guest is too small to have given the slot power, so nobody has to be asked.
        await one.execute("device_del", {"id": "disk"})
        assert (await events.get())["data"]["device"] == "disk"
    await one.execute("blockdev-del", {"node-name": "node"})

    with two.listener("SHUTDOWN") as events:
        await one.execute("quit")
        event = await events.get()
        assert event["data"] == {"guest": False, "reason": "host-qmp-quit"}, event
    for client in (one, two):
        try:
            await client.disconnect()
        except EOFError:
            pass
    print("the client is content")


asyncio.run(main(*sys.argv[1:]))
