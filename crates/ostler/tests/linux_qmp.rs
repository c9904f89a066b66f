//! Real Linux under QMP: devices come and go, disks grow, cables are pulled, buttons are pressed.

mod support;

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ostler_disk::open::{DiskOptions, open};
use rustix::thread::UnshareFlags;
use serde_json::{Value, json};
use support::Guest;
use support::qmp::Qmp;

const LIMIT: Duration = Duration::from_secs(240);
const DISK_SIZE: u64 = 1 << 20;
const MAC: &str = "52:54:00:0a:0b:0c";

/// Says what it finds and does, each time something changes.
const DEVICES: &str = "
dmesg -n 1
until_is() { while [ \"$(cat $2 2>/dev/null)\" != \"$1\" ]; do usleep 20000; done; }
there() { while [ ! -e $1 ]; do usleep 20000; done; }
gone() { while [ -e $1 ]; do usleep 20000; done; }
for round in 1 2; do
	echo empty $round
	there /dev/vda
	echo disk $(cat /sys/block/vda/serial) of $(cat /sys/block/vda/size) sectors: $(tr -d '\\000' </dev/vda)
	echo written in round $round | dd of=/dev/vda bs=512 seek=1 conv=fsync 2>/dev/null
	echo disk written $round
	until_is 4096 /sys/block/vda/size
	echo at the end | dd of=/dev/vda bs=512 seek=4095 conv=fsync 2>/dev/null
	echo disk grown $round
	gone /dev/vda
	echo disk gone $round
done
there /sys/class/net/eth0
echo card $(cat /sys/class/net/eth0/address)
ip address add 10.98.0.2/24 dev eth0; ip link set eth0 up
until_is 1 /sys/class/net/eth0/carrier; echo carrier 1
ping -c 1 -W 1 10.98.0.1 >/dev/null
echo pinged
until_is 0 /sys/class/net/eth0/carrier; echo carrier 0
until_is 1 /sys/class/net/eth0/carrier; echo carrier 1 again
gone /sys/class/net/eth0
echo card gone
until_is virtio_rng.0 /sys/class/misc/hw_random/rng_current
echo random bytes: $(dd if=/dev/hwrng bs=32 count=1 2>/dev/null | wc -c)
while ! grep -q none /sys/class/misc/hw_random/rng_current; do usleep 20000; done
echo source gone
dmesg -n 8; dmesg
";

/// Reads frames of the socket's wire (length, frame) until one is an ARP request by our card.
fn wait_for_arp(cable: &mut UnixStream) {
    let mac = [0x52, 0x54, 0, 0x0a, 0x0b, 0x0c];
    loop {
        let mut length = [0; 4];
        cable.read_exact(&mut length).unwrap();
        let mut frame = vec![0; u32::from_be_bytes(length) as usize];
        cable.read_exact(&mut frame).unwrap();
        if frame[12..14] == [0x08, 0x06] && frame[6..12] == mac {
            return;
        }
    }
}

fn add_disk(qmp: &mut Qmp, image: &Path, round: u32) {
    let file = File::options().read(true).write(true).open(image).unwrap();
    let added = qmp.execute_with("add-fd", json!({ "fdset-id": 1, "opaque": "hot disk" }), &file);
    assert_eq!(added["fdset-id"], 1);
    let below = json!({ "driver": "file", "filename": "/dev/fdset/1", "discard": "unmap" });
    let node = json!({ "driver": "raw", "node-name": "node", "file": below });
    qmp.execute("blockdev-add", node);
    let device = json!({ "driver": "virtio-blk-pci", "id": "hp", "drive": "node",
                         "bus": format!("rp{round}"), "serial": format!("serial{round}") });
    qmp.execute("device_add", device);
}

/// Takes the device out as the guest lets it go.
fn remove(qmp: &mut Qmp, id: &str) {
    qmp.execute("device_del", json!({ "id": id }));
    let again = qmp.refused("device_del", json!({ "id": id }));
    assert_eq!(again["class"], "GenericError", "{again}");
    let deleted = qmp.event("DEVICE_DELETED");
    let path = format!("/machine/peripheral/{id}");
    assert_eq!(deleted["data"], json!({ "device": id, "path": path }));
    assert_eq!(
        qmp.refused("device_del", json!({ "id": id }))["class"],
        "DeviceNotFound"
    );
}

#[test]
fn disks_cards_and_entropy_come_and_go() {
    let mut guest = Guest::new(1).args(["--rng", "off"]);
    let control = guest.path_option("--control", "", "control");
    let image = guest.folder.path().join("hot.img");
    let mut guest = guest.script(DEVICES).spawn();
    guest.expect("empty 1\n", LIMIT);
    let mut qmp = Qmp::connect(&control);
    for round in [1, 2] {
        guest.expect(&format!("empty {round}\n"), LIMIT);
        let mut contents = format!("disk of round {round}").into_bytes();
        contents.resize(DISK_SIZE as usize, 0);
        fs::write(&image, contents).unwrap();
        let before = Instant::now();
        add_disk(&mut qmp, &image, round);
        let shown = format!("disk serial{round} of 2048 sectors: disk of round {round}\n");
        guest.expect(&shown, LIMIT);
        eprintln!(
            "a disk was in use {:.2} s after device_add",
            before.elapsed().as_secs_f64()
        );
        guest.expect(&format!("disk written {round}\n"), LIMIT);
        assert!(
            open(&image, DiskOptions::default()).is_err(),
            "the image is locked"
        );
        qmp.execute("block_resize", json!({ "node-name": "node", "size": 2 << 20 }));
        guest.expect(&format!("disk grown {round}\n"), LIMIT);
        let stats = qmp.execute("query-blockstats", json!({}));
        assert!(
            stats[0]["stats"]["wr_operations"].as_u64().unwrap() >= 2,
            "{stats}"
        );
        assert_eq!(stats[0]["stats"]["wr_highest_offset"], 2 << 20, "{stats}");
        assert_eq!(
            qmp.refused("blockdev-del", json!({ "node-name": "node" }))["desc"],
            "Node node is in use"
        );

        let before = Instant::now();
        remove(&mut qmp, "hp");
        eprintln!(
            "DEVICE_DELETED came {:.2} s after device_del",
            before.elapsed().as_secs_f64()
        );
        qmp.execute("blockdev-del", json!({ "node-name": "node" }));
        qmp.execute("remove-fd", json!({ "fdset-id": 1 }));
        guest.expect(&format!("disk gone {round}\n"), LIMIT);
        drop(open(&image, DiskOptions::default()).expect("nobody has the image any more"));
        let written = fs::read(&image).unwrap();
        assert!(written[512..].starts_with(format!("written in round {round}\n").as_bytes()));
        assert!(written[4095 * 512..].starts_with(b"at the end\n"));
    }

    let (ours, mut cable) = UnixStream::pair().unwrap();
    cable.set_read_timeout(Some(LIMIT)).unwrap();
    qmp.execute_with("getfd", json!({ "fdname": "cable" }), &ours);
    drop(ours);
    qmp.execute(
        "netdev_add",
        json!({ "type": "socket", "id": "wire", "fd": "cable" }),
    );
    let card = json!({ "driver": "virtio-net-pci", "id": "card", "netdev": "wire", "mac": MAC });
    qmp.execute("device_add", card);
    guest.expect(&format!("card {MAC}\ncarrier 1\n"), LIMIT);
    wait_for_arp(&mut cable);
    guest.expect("pinged\n", LIMIT);
    qmp.execute("set_link", json!({ "name": "card", "up": false }));
    guest.expect("carrier 0\n", LIMIT);
    qmp.execute("set_link", json!({ "name": "wire", "up": true }));
    guest.expect("carrier 1 again\n", LIMIT);
    remove(&mut qmp, "card");
    guest.expect("card gone\n", LIMIT);
    qmp.execute("netdev_del", json!({ "id": "wire" }));
    let mut rest = Vec::new();
    cable
        .read_to_end(&mut rest)
        .expect("the guest's end of the cable is closed");

    qmp.execute("device_add", json!({ "driver": "virtio-rng-pci", "id": "dice" }));
    guest.expect("random bytes: 32\n", LIMIT);
    remove(&mut qmp, "dice");
    guest.expect("source gone\n", LIMIT);
    guest.wait(LIMIT).assert_clean();
}

const LIFE: &str = "
dmesg -n 1
nmis() { awk '/NMI:/ {print $2 + $3}' /proc/interrupts; }
echo up with $(nmis) NMIs
while [ $(nmis) != 2 ]; do usleep 20000; done
echo two NMIs
read line </dev/console
echo read $line
sleep 1000
";

fn instructions(qmp: &mut Qmp) -> Vec<Value> {
    let stats = qmp.execute("x-ostler-stats", json!({}));
    let cpus = stats["vcpus"].as_array().unwrap();
    cpus.iter().map(|cpu| cpu["instructions"].clone()).collect()
}

#[test]
fn a_guest_is_held_looked_at_reset_and_powered_off() {
    let mut guest = Guest::new(2)
        .args(["--accel", "soft", "--name", "mare"])
        .reboots();
    let control = guest.path_option("--control", "", "control");
    let mut guest = guest.script(LIFE).spawn();
    guest.expect("up with 0 NMIs\n", LIMIT);
    let mut qmp = Qmp::connect(&control);

    let registers = qmp.line("info registers -a");
    assert!(
        registers.contains("CPU#1") && registers.contains("RIP=ffffffff"),
        "{registers}"
    );
    qmp.execute("inject-nmi", json!({}));
    guest.expect("two NMIs\n", LIMIT);

    qmp.execute("stop", json!({}));
    qmp.event("STOP");
    assert_eq!(qmp.execute("query-status", json!({}))["status"], "paused");
    let held = instructions(&mut qmp);
    let registers = qmp.line("info registers -a");
    guest.type_in("hay\n");
    assert_eq!(qmp.line("info registers -a"), registers, "held CPUs do not move");
    assert_eq!(instructions(&mut qmp), held);
    assert_eq!(qmp.line("info status"), "VM status: paused\r\n");
    qmp.execute("cont", json!({}));
    qmp.event("RESUME");
    guest.expect("read hay\n", LIMIT);

    let pci = qmp.line("info pci");
    assert!(
        pci.contains("id \"rp1\"") && pci.contains("PCI device 1af4:1044"),
        "{pci}"
    );
    assert!(qmp.line("info mtree").contains("rng BAR 4"));

    qmp.execute("system_reset", json!({}));
    let reset = qmp.event("RESET");
    assert_eq!(
        reset["data"],
        json!({ "guest": false, "reason": "host-qmp-system-reset" })
    );
    guest.expect_times("up with 0 NMIs\n", 2, LIMIT);

    qmp.execute("system_powerdown", json!({}));
    qmp.event("POWERDOWN");
    let shutdown = qmp.event("SHUTDOWN");
    assert_eq!(
        shutdown["data"],
        json!({ "guest": true, "reason": "guest-shutdown" })
    );
    let outcome = guest.wait(LIMIT);
    assert!(outcome.status.success(), "{}", outcome.status);
    assert!(
        outcome.console.contains("reboot: Power down"),
        "{}",
        outcome.console
    );
}

const TAP: &str = "
dmesg -n 1
echo no card
while [ ! -e /sys/class/net/eth0 ]; do usleep 20000; done
ip address add 10.99.0.2/24 dev eth0; ip link set eth0 up
echo card up
while [ -e /sys/class/net/eth0 ]; do usleep 20000; done
echo card gone
dmesg -n 8; dmesg
";

/// A queue of the tap `name`, opened and set up as management tools do, without what is only ours.
fn attach(name: &str) -> File {
    const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
    let mut request = [0u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    let flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as u16;
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    let tun = File::options()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .unwrap();
    // SAFETY: TUNSETIFF reads and writes an ifreq, which has 40 bytes.
    let attached = unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) };
    assert_eq!(attached, 0, "{}", std::io::Error::last_os_error());
    tun
}

#[test]
fn a_card_on_a_tap_that_was_handed_over_comes_and_goes() {
    if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
        return eprintln!(
            "SKIPPED a_card_on_a_tap_that_was_handed_over_comes_and_goes: needs root and /dev/net/tun for a tap in a network namespace"
        );
    }
    // SAFETY: only the network namespace of this thread changes; no file descriptor table is unshared.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.unwrap();
    for line in [
        "tuntap add dev tap0 mode tap",
        "address add 10.99.0.1/24 dev tap0",
        "link set tap0 up",
    ] {
        assert!(
            Command::new("ip")
                .args(line.split(' '))
                .status()
                .unwrap()
                .success(),
            "ip {line}"
        );
    }
    let mut guest = Guest::new(1);
    let control = guest.path_option("--control", "", "control");
    let mut guest = guest.script(TAP).spawn();
    guest.expect("no card\n", LIMIT);
    let mut qmp = Qmp::connect(&control);
    qmp.execute_with("getfd", json!({ "fdname": "tap" }), attach("tap0"));
    qmp.execute("netdev_add", json!({ "type": "tap", "id": "wire", "fd": "tap" }));
    qmp.execute(
        "device_add",
        json!({ "driver": "virtio-net-pci", "id": "card", "netdev": "wire" }),
    );
    guest.expect("card up\n", LIMIT);
    let ping = Command::new("ping")
        .args(["-c", "3", "-W", "20", "-s", "8000", "10.99.0.2"])
        .output();
    let ping = ping.unwrap();
    assert!(ping.status.success(), "{}", String::from_utf8_lossy(&ping.stdout));
    remove(&mut qmp, "card");
    guest.expect("card gone\n", LIMIT);
    qmp.execute("netdev_del", json!({ "id": "wire" }));
    // Whoever wants the tap can have it again.
    drop(attach("tap0"));
    guest.wait(LIMIT).assert_clean();
}
