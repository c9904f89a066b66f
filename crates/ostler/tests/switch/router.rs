//! A router of the switch for a Linux host that is no guest of ours: its frames come with large segments and checksums left undone, in bursts.

use crate::support::hosts::{self, Host, TCP_CLIENT, TCP_SERVER, ip};
use crate::support::switch::Switch;

const MEGABYTE: u64 = 1 << 20;

/// 100 MB out to the host's loopback and 100 MB in by a forwarded port: every byte, and not a frame lost on the way to the router, for whose
/// TCP that would mean waiting for a timer.
#[test]
fn a_host_exchanges_much_with_the_outside() {
    if !hosts::enter("a_host_exchanges_much_with_the_outside", &["socket"]) {
        return;
    }
    ip("link set lo up");
    let (inside, outside) = (Host::new("inside", 1), Host::here());
    let switch = Switch::start(
        "[[port]]\nname = \"inside\"\npacket = \"inside\"\n\
         [[port]]\nname = \"router\"\n\
         [port.router]\naddress = \"10.98.0.254/24\"\n\
         forward = [\"tcp:127.0.0.2:5000:10.98.0.1:5000\"]\n",
    );
    switch.until_up("inside", true);
    switch.until_up("router", true);
    // Who listens where, who connects from where to which address.
    for (server, at, client, to) in [
        (&outside, "127.0.0.1", &inside, "10.98.0.254"),
        (&inside, "10.98.0.1", &outside, "127.0.0.2"),
    ] {
        let mut server = server.python(TCP_SERVER, &[at]);
        assert_eq!(server.line(), "listening");
        let bytes = (100 * MEGABYTE).to_string();
        let mut client = client.python(TCP_CLIENT, &[to, &bytes]);
        let sent = client.line();
        assert_eq!(server.line(), sent);
        eprintln!(
            "TCP through a router from a packet port, to {to}: {}",
            client.line()
        );
    }
    for port in ["inside", "router"] {
        let shown = switch.port(port).unwrap();
        assert_eq!(
            shown["counters"]["egress-dropped"],
            serde_json::json!({}),
            "{port}"
        );
        let received = shown["counters"]["received"].as_u64().unwrap();
        assert!(
            received < 200 * MEGABYTE / 1460,
            "{port}: segments passed whole: {received} frames"
        );
    }
}
