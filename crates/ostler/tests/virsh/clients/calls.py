"""A guest from its definition to its end by libvirt's bindings for Python, with the calls that OpenStack's nova makes, and what is around it.

Arguments: the URI, the guest's document, that of a disk to plug in, a folder of the host that is the pool "default".
"""
import os
import socket
import sys
import threading
import time
import xml.etree.ElementTree as tree

import libvirt
from libvirt import libvirtError

uri, guest_xml, disk_xml, images = sys.argv[1:]
guest_xml, disk_xml = open(guest_xml).read(), open(disk_xml).read()


def refused(code, call, *arguments):
    """A call that is refused with this code of libvirt's."""
    try:
        call(*arguments)
    except libvirtError as error:
        assert error.get_error_code() == code, error
        return error.get_error_message()
    raise AssertionError(f"{call} was not refused")


def until(what, is_so):
    end = time.monotonic() + 240
    while not is_so():
        assert time.monotonic() < end, f"waited for long, but not so: {what}"
        time.sleep(0.05)


libvirt.registerErrorHandler(lambda *_: None, None)
libvirt.virEventRegisterDefaultImpl()


def loop():
    while True:
        libvirt.virEventRunDefaultImpl()


threading.Thread(target=loop, daemon=True).start()
credentials = [libvirt.VIR_CRED_AUTHNAME, libvirt.VIR_CRED_NOECHOPROMPT]
conn = libvirt.openAuth(uri, [credentials, lambda *_: 0, None], 0)
conn.setKeepAlive(5, 3)
conn.registerCloseCallback(lambda *_: None, None)

# The host, against the kernel.
meminfo = {line.split(":")[0]: int(line.split()[1]) for line in open("/proc/meminfo")}
assert conn.getType() == "QEMU" and conn.getHostname() == socket.gethostname()
assert (conn.getLibVersion(), conn.getVersion()) == (9000000, 7002000)
assert conn.isAlive() and conn.isSecure() and not conn.isEncrypted()
architecture, megabytes, cpus = conn.getInfo()[:3]
assert architecture == "x86_64" and megabytes == meminfo["MemTotal"] // 1024 and cpus == os.sysconf("SC_NPROCESSORS_ONLN")
assert conn.getMemoryStats(libvirt.VIR_NODE_MEMORY_STATS_ALL_CELLS)["total"] == meminfo["MemTotal"]
assert conn.getCPUStats(libvirt.VIR_NODE_CPU_STATS_ALL_CPUS)["kernel"] > 0
assert conn.getFreeMemory() > 0 and conn.getCPUMap()[0] >= cpus
cpu = tree.fromstring(conn.getCapabilities()).find("host/cpu")
cpu = tree.tostring(cpu, encoding="unicode")
assert conn.compareCPU(cpu) in (libvirt.VIR_CPU_COMPARE_IDENTICAL, libvirt.VIR_CPU_COMPARE_SUPERSET)
assert "<model" in conn.baselineCPU([cpu], libvirt.VIR_CONNECT_BASELINE_CPU_EXPAND_FEATURES)
assert "x86-64-v2" in conn.getCPUModelNames("x86_64")
emulated = tree.fromstring(conn.getDomainCapabilities(None, "x86_64", "q35", "qemu"))
assert emulated.find("domain").text == "qemu"
assert "efi" in [value.text for value in emulated.findall("os/enum[@name='firmware']/value")]

# What happens is told.
events, plugged = [], []
conn.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lambda c, d, event, detail, o: events.append(event), None)
for kind in (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED):
    conn.domainEventRegisterAny(None, kind, lambda c, d, alias, kind: plugged.append((kind, alias)), kind)

dom = conn.defineXMLFlags(guest_xml, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
assert dom.isPersistent() and not dom.isActive() and dom.ID() == -1
assert conn.lookupByUUIDString(dom.UUIDString()).name() == dom.name()
assert dom.name() in conn.listDefinedDomains()
refused(libvirt.VIR_ERR_NO_DOMAIN, conn.lookupByName, "nobody")
refused(libvirt.VIR_ERR_XML_ERROR, conn.defineXML, "<domain")

dom.createWithFlags(libvirt.VIR_DOMAIN_START_PAUSED)
assert dom.state()[0] == libvirt.VIR_DOMAIN_PAUSED and dom.ID() in conn.listDomainsID()
refused(libvirt.VIR_ERR_OPERATION_INVALID, dom.create)
dom.resume()
assert [one.name() for one in conn.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE)] == [dom.name()]

# Its console, by a stream.
stream = conn.newStream()
dom.openConsole(None, stream, 0)
shown = b""


def shows(text):
    """Waits until the console has shown a text."""
    global shown
    while text not in shown:
        got = stream.recv(4096)
        assert got, shown
        shown += got


shows(b"OSTLER-GUEST-UP")
shows(b"# ")
stream.send(b"echo by a str''eam\n")
shows(b"by a stream\r\n")

state, most, memory, vcpus, used = dom.info()
assert (state, most, vcpus) == (libvirt.VIR_DOMAIN_RUNNING, 256 << 10, 2) and used > 0
assert len(dom.vcpus()[0]) == 2 and dom.maxMemory() == most
assert dom.blockInfo("vda")[0] == 1 << 20
assert dom.memoryStats()["rss"] > 0 and dom.getCPUStats(True)[0]["cpu_time"] > 0
(_, figures), = conn.getAllDomainStats(0, libvirt.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE)
assert figures["vcpu.current"] == 2 and figures["block.0.name"] == "vda" and figures["net.count"] == 1
assert dom.blockStats("vda")[1] > 0
card = tree.fromstring(dom.XMLDesc()).find("devices/interface/mac").get("address")
assert dom.interfaceStats(card)[0] >= 0

# A disk comes and goes.
everywhere = libvirt.VIR_DOMAIN_AFFECT_LIVE | libvirt.VIR_DOMAIN_AFFECT_CONFIG
dom.attachDeviceFlags(disk_xml, everywhere)
stream.send(b"until [ -b /dev/vdb ]; do usleep 100000; done; echo it is th''ere\n")
shows(b"it is there\r\n")
dom.detachDeviceFlags(disk_xml, everywhere)
until("both are told", lambda: len(plugged) == 2)
assert plugged == [(libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_ADDED, "virtio-disk1"), (libvirt.VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED, "virtio-disk1")], plugged
assert "vdb" not in dom.XMLDesc() and "vdb" not in dom.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)

place = "http://openstack.org/xmlns/libvirt/nova/1.1"
dom.setMetadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, "<instance><flavor>small</flavor></instance>", "nova", place, everywhere)
assert "small" in dom.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, place)
assert dom.jobStats()["type"] == libvirt.VIR_DOMAIN_JOB_NONE and dom.hasManagedSaveImage() == 0

# What is not there is told by its code, so that a service goes another way.
refused(libvirt.VIR_ERR_NO_SUPPORT, dom.managedSave)
refused(libvirt.VIR_ERR_NO_SUPPORT, dom.snapshotCreateXML, "<domainsnapshot/>")
refused(libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, dom.migrateToURI3, "qemu+tcp://elsewhere/system", {}, libvirt.VIR_MIGRATE_LIVE)
refused(libvirt.VIR_ERR_ARGUMENT_UNSUPPORTED, dom.fsFreeze)

# A volume, whose bytes go in and come out by streams.
pool = conn.storagePoolLookupByTargetPath(images)
assert pool.name() == "default" and pool.info()[0] == libvirt.VIR_STORAGE_POOL_RUNNING
volume = pool.createXML("<volume><name>bytes</name><capacity>65536</capacity><target><format type='raw'/></target></volume>")
contents = os.urandom(65536)
left = [contents]
stream_in = conn.newStream()
volume.upload(stream_in, 0, len(contents))


def more(stream, size, opaque):
    part, left[0] = left[0][:size], left[0][size:]
    return part


stream_in.sendAll(more, None)
stream_in.finish()
assert open(f"{images}/bytes", "rb").read() == contents
received = []
stream_out = conn.newStream()
volume.download(stream_out, 0, 0)
stream_out.recvAll(lambda stream, data, opaque: received.append(data), None)
stream_out.finish()
assert b"".join(received) == contents
volume.delete()
assert not os.path.exists(f"{images}/bytes")

secret = conn.secretDefineXML("<secret ephemeral='no' private='no'><usage type='volume'><volume>/a</volume></usage></secret>")
secret.setValue(b"word")
assert conn.secretLookupByUsage(libvirt.VIR_SECRET_USAGE_TYPE_VOLUME, "/a").value() == b"word"
secret.undefine()

network = conn.networkLookupByName("default")
assert network.isActive() and network.autostart() and network.bridgeName() == "virbr0" and network.DHCPLeases() == []
kinds = {device.name() for device in conn.listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_NET)}
assert "lo" not in kinds and all(conn.nodeDeviceLookupByName(name).XMLDesc().startswith("<device>") for name in kinds)

# Its end.
dom.shutdownFlags(libvirt.VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
until("it is off", lambda: dom.state() == [libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_SHUTDOWN])
dom.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM)
assert conn.listAllDomains() == []
until("the end is told", lambda: events and events[-1] == libvirt.VIR_DOMAIN_EVENT_UNDEFINED)
wanted = ["DEFINED", "STARTED", "SUSPENDED", "RESUMED", "SHUTDOWN", "STOPPED", "UNDEFINED"]
told = {getattr(libvirt, f"VIR_DOMAIN_EVENT_{name}"): name for name in wanted}
print("events:", *[told[event] for event in events])
conn.close()
