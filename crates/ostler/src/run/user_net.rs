//! `--net user`: a network card on user-mode NAT.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ostler_usernet::{Config, FIRST_GUEST, Forward, MAX_FORWARDS, is_guest, name_server};
use ostler_vmm::spec::MacAddress;

const USAGE: &str = "user[,mac=M][,address=10.0.2.N][,dns=ADDRESS[:PORT]][,ipv6=off][,restrict]\
                     [,forward=tcp|udp:[ADDRESS:]PORT:GUESTPORT]...";

/// User-mode NAT as the user describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserNet {
    pub mac: Option<MacAddress>,
    pub address: Ipv4Addr,
    /// The host's own name server if it is not given.
    pub dns: Option<SocketAddr>,
    pub ipv6: bool,
    pub restrict: bool,
    pub forwards: Vec<Forward>,
}

impl UserNet {
    /// What follows the word `user`: nothing, or options that start with a comma each.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut net = Self {
            mac: None,
            address: FIRST_GUEST,
            dns: None,
            ipv6: true,
            restrict: false,
            forwards: Vec::new(),
        };
        for word in text.split(',').skip(1) {
            match word.split_once('=') {
                None if word == "restrict" => net.restrict = true,
                Some(("ipv6", "on")) => net.ipv6 = true,
                Some(("ipv6", "off")) => net.ipv6 = false,
                Some(("mac", mac)) => net.mac = Some(mac.parse()?),
                Some(("address", address)) => {
                    let wanted = address.parse().ok().filter(|address| is_guest(*address));
                    net.address = wanted.ok_or_else(|| {
                        format!(
                            "\"{address}\" is no address for a guest; write one of 10.0.2.4 to 10.0.2.254"
                        )
                    })?;
                }
                Some(("dns", server)) => {
                    let alone = server
                        .parse::<IpAddr>()
                        .map(|address| SocketAddr::new(address, 53));
                    let server = server.parse().or(alone).map_err(|_| {
                        format!("\"{server}\" is no name server; write ADDRESS or ADDRESS:PORT")
                    })?;
                    net.dns = Some(server);
                }
                Some(("forward", forward)) if net.forwards.len() < MAX_FORWARDS => {
                    let forward: Forward = forward.parse()?;
                    if forward.guest.is_some() {
                        return Err(
                            "a forwarded port names a guest, and there is only one; leave its address out"
                                .into(),
                        );
                    }
                    net.forwards.push(forward);
                }
                Some(("forward", _)) => return Err(format!("more than {MAX_FORWARDS} ports are forwarded")),
                _ => {
                    return Err(format!(
                        "\"{word}\" is no option of a user-mode network; write {USAGE}"
                    ));
                }
            }
        }
        Ok(net)
    }

    /// The network for the guest `name` with the card `mac`.
    pub fn config(&self, mac: MacAddress, name: &str) -> Config {
        let of_host = || name_server(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default());
        let config = Config {
            upstream: self.dns.or_else(of_host),
            restrict: self.restrict,
            forwards: self.forwards.clone(),
            ..Config::for_guest(mac.0, name, self.address)
        };
        if self.ipv6 { config } else { config.without_ipv6() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_understood_or_refused() {
        let net = UserNet::parse("").unwrap();
        assert_eq!((net.address, net.restrict, net.ipv6), (FIRST_GUEST, false, true));
        let mac = "52:54:00:12:34:56".parse().unwrap();
        assert!(net.config(mac, "vm").ipv6.is_some());
        let without = UserNet::parse(",ipv6=off,forward=tcp:[::1]:2222:22").unwrap();
        assert_eq!(without.forwards[0].listen.to_string(), "[::1]:2222");
        assert_eq!(without.config(mac, "vm").ipv6, None);
        let net = UserNet::parse(
            ",mac=52:54:00:12:34:56,address=10.0.2.20,dns=127.0.0.1:5353,restrict,forward=tcp:2222:22,forward=udp:1:2",
        )
        .unwrap();
        assert_eq!(net.mac, Some("52:54:00:12:34:56".parse().unwrap()));
        assert_eq!(net.address, Ipv4Addr::new(10, 0, 2, 20));
        assert_eq!(net.dns, Some(([127, 0, 0, 1], 5353).into()));
        assert!(net.restrict);
        assert_eq!(net.forwards.len(), 2);
        let net = UserNet::parse(",dns=192.0.2.1").unwrap();
        assert_eq!(net.dns, Some(([192, 0, 2, 1], 53).into()));
        for bad in [
            ",",
            ",speed=9",
            ",restrict=on",
            ",ipv6",
            ",ipv6=no",
            ",forward=tcp:2222:[fd00:10:0:2::15]:22",
            ",address=10.0.2.2",
            ",address=10.0.3.1",
            ",dns=a.b",
            ",forward=22",
            ",forward=tcp:22:10.0.2.15:22",
        ] {
            assert!(UserNet::parse(bad).is_err(), "{bad}");
        }
        let many = ",forward=tcp:1:1".repeat(65);
        assert!(UserNet::parse(&many).is_err());
    }
}
