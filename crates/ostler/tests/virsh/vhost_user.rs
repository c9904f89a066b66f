//! Cards whose other end is a back end of vhost-user: ports of `ostler switch` are such back ends.

use crate::console::Console;
use crate::setup::{Host, linux, wait_until};
use crate::support::switch::Switch;

/// Both directions of the socket, a card that is plugged in, a back end and a daemon that go and come again.
#[test]
fn cards_with_back_ends_of_vhost_user() {
    let mut switch = Switch::start(
        "[[port]]\nname = \"one\"\nvhost-user = \"FOLDER/one\"\n\
         [[port]]\nname = \"two\"\nvhost-user-connect = \"FOLDER/two\"\n\
         [[port]]\nname = \"router\"\n[port.router]\naddress = \"10.94.0.1/24\"\nrestrict = true\n",
    );
    let mut host = Host::start();
    let folder = switch.path("");
    let card = |name: &str, mode: &str, mac: u8| {
        format!(
            "<interface type='vhostuser'><mac address='52:54:00:94:00:{mac:02x}'/>\
             <source type='unix' path='{}' mode='{mode}'/><model type='virtio'/></interface>",
            folder.join(name).display()
        )
    };
    let file = host.xml("guest.xml", &linux("far", &card("one", "client", 1)));
    host.virsh(&format!("define {file}"));
    host.virsh("start far");
    let list = host.virsh("domiflist far");
    assert!(
        list.contains("vhostuser") && list.contains("52:54:00:94:00:01"),
        "{list}"
    );
    let mut console = Console::open(&host, "far");
    console.expect("OSTLER-GUEST-UP");
    console.expect("# ");
    console.shell("ip address add 10.94.0.2/24 dev eth0; ip link set eth0 up");
    let ping = "ping -c 1 -W 5 10.94.0.1 >/dev/null && echo reached";
    console.shell_until(ping, "reached");
    switch.until_up("one", true);
    wait_until("bytes are counted", || {
        let counted = host.virsh("domifstat far 52:54:00:94:00:01");
        !counted.contains("rx_bytes 0\n") && !counted.contains("tx_bytes 0\n")
    });

    // The daemon and the back end are both gone for a while; the guest's way does not need the daemon.
    host.kill();
    switch.end();
    switch.start_again();
    switch.until_up("one", true);
    host.start_again();
    let mut console = Console::open(&host, "far");
    console.expect("# ");
    console.shell_until(ping, "reached");

    // Another one is plugged in, to which its back end connects.
    let second = host.xml("card.xml", &card("two", "server", 2));
    host.virsh(&format!("attach-device far {second} --live"));
    console.shell_until("cat /sys/class/net/eth1/address 2>/dev/null", "52:54:00:94:00:02");
    console.shell("ip link set eth0 down; ip address add 10.94.0.3/24 dev eth1; ip link set eth1 up");
    console.shell_until(ping, "reached");
    switch.until_up("two", true);
    host.virsh(&format!("detach-device far {second} --live"));
    console.shell_until("ls /sys/class/net | grep -c eth1", "0");
    wait_until("its socket is gone", || !switch.path("two").exists());
    // Without a back end a guest starts all the same, and has no link.
    let file = host.xml("alone.xml", &linux("alone", &card("none", "client", 3)));
    host.virsh(&format!("create {file}"));
    let mut alone = Console::open(&host, "alone");
    alone.expect("OSTLER-GUEST-UP");
    alone.expect("# ");
    alone.shell("ip link set eth0 up");
    alone.shell_until("cat /sys/class/net/eth0/carrier", "0");
    host.virsh("destroy alone");
    host.virsh("destroy far");
    switch.until_up("one", false);

    // What cannot be.
    let queues = card("one", "client", 4).replace("<model", "<driver queues='2'/><model");
    let file = host.xml("queues.xml", &linux("queues", &queues));
    assert!(host.refused(&format!("create {file}")).contains("one queue pair"));
    std::fs::write(switch.path("file"), "").unwrap();
    let file = host.xml("file.xml", &linux("file", &card("file", "server", 5)));
    let said = host.refused(&format!("create {file}"));
    assert!(said.contains("cannot listen at socket"), "{said}");
}
