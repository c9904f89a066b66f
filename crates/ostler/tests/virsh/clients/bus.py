"""What cockpit-machines asks of libvirt-dbus: the guests, networks, pools and devices of qemu:///system as objects of D-Bus.

Arguments: the address of the bus, a guest's document.
"""
import sys
import time

from gi.repository import Gio, GLib

address, guest_xml = sys.argv[1:]
guest_xml = open(guest_xml).read()
QEMU = "/org/libvirt/QEMU"
kind = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
bus = Gio.DBusConnection.new_for_address_sync(address, kind, None, None)


def ask(to, path, interface, method, signature, arguments):
    arguments = GLib.Variant(signature, arguments) if signature else None
    return bus.call_sync(to, path, interface, method, arguments, None, Gio.DBusCallFlags.NONE, 240000, None).unpack()


def call(path, method, signature=None, *arguments):
    """Connect.ListDomains of this object, and its like; its one value, if it has one."""
    interface, method = method.split(".")
    answer = ask("org.libvirt", path, "org.libvirt." + interface, method, signature, arguments)
    return answer[0] if answer else None


def properties(path, interface):
    return ask("org.libvirt", path, "org.freedesktop.DBus.Properties", "GetAll", "(s)", ("org.libvirt." + interface,))[0]


def until(what, is_so):
    end = time.monotonic() + 240
    while not is_so():
        assert time.monotonic() < end, f"waited for long, but not so: {what}"
        while GLib.MainContext.default().iteration(False):
            pass
        time.sleep(0.05)


daemon = "org.freedesktop.DBus"
until("libvirt-dbus is there", lambda: ask(daemon, "/org/freedesktop/DBus", daemon, "NameHasOwner", "(s)", ("org.libvirt",))[0])

host = properties(QEMU, "Connect")
assert (host["Version"], host["LibVersion"]) == (7002000, 9000000), host
assert call(QEMU, "Connect.GetCapabilities").startswith("<capabilities>")
assert "<domain>qemu</domain>" in call(QEMU, "Connect.GetDomainCapabilities", "(ssssu)", "", "x86_64", "q35", "qemu", 0)
assert call(QEMU, "Connect.ListDomains", "(u)", 0) == []

events = []
hear = lambda bus, sender, path, interface, name, values: events.append(values.unpack()[1])
bus.signal_subscribe("org.libvirt", "org.libvirt.Connect", "DomainEvent", QEMU, None, Gio.DBusSignalFlags.NONE, hear)

guest = call(QEMU, "Connect.DomainDefineXML", "(s)", guest_xml)
assert call(QEMU, "Connect.ListDomains", "(u)", 0) == [guest]
about = properties(guest, "Domain")
assert about["Name"] == "seen" and about["Persistent"] and not about["Active"] and not about["Autostart"], about
assert about["UUID"].replace("-", "_") in guest, guest
call(guest, "Domain.Create", "(u)", 0)
assert call(guest, "Domain.GetState", "(u)", 0)[0] == 1
assert "<alias name=" in call(guest, "Domain.GetXMLDesc", "(u)", 0)
assert properties(guest, "Domain")["Id"] > 0
figures = call(guest, "Domain.GetStats", "(uu)", 0, 0)
assert figures["vcpu.current"] == 2 and figures["state.state"] == 1, figures
assert len(call(guest, "Domain.GetVcpuPinInfo", "(u)", 0)) == 2
assert call(guest, "Domain.MemoryStats", "(u)", 0)
call(guest, "Domain.Suspend")
assert call(guest, "Domain.GetState", "(u)", 0)[0] == 3
call(guest, "Domain.Resume")

network, = call(QEMU, "Connect.ListNetworks", "(u)", 0)
about = properties(network, "Network")
assert about["Name"] == "default" and about["Active"] and about["Autostart"], about
assert call(network, "Network.GetDHCPLeases", "(su)", "", 0) == []
pool, = call(QEMU, "Connect.ListStoragePools", "(u)", 0)
assert properties(pool, "StoragePool")["Name"] == "default"
xml = "<volume><name>a</name><capacity>4096</capacity><target><format type='raw'/></target></volume>"
volume = call(pool, "StoragePool.StorageVolCreateXML", "(su)", xml, 0)
assert call(pool, "StoragePool.ListStorageVolumes", "(u)", 0) == [volume]
assert call(volume, "StorageVol.GetInfo", "(u)", 0)[1] == 4096
call(volume, "StorageVol.Delete", "(u)", 0)
devices = call(QEMU, "Connect.ListNodeDevices", "(u)", 0)
assert devices and all(call(device, "NodeDevice.GetXMLDesc", "(u)", 0).startswith("<device>") for device in devices)
assert call(QEMU, "Connect.ListSecrets", "(u)", 0) == []

call(guest, "Domain.Destroy", "(u)", 0)
call(guest, "Domain.Undefine", "(u)", 0)
until("the end is told", lambda: events and events[-1] == 1)
# Defined, resumed and started, as libvirt's own daemon tells it, suspended, resumed, stopped, undefined.
assert events == [0, 4, 2, 3, 4, 5, 1], events
