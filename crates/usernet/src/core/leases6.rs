//! The DHCPv6 server at work (RFC 8415, 18.3).

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::Core;
use super::input::Sender;
use crate::config::Dhcp6;
use crate::dhcp6::{self, Granted, Ia, Network, Purpose, Request, Status};
use crate::guests::{Client, locked};
use crate::time::Millis;
use crate::wire::{Packet, Udp};

impl Core {
    pub(super) fn input_dhcp6(
        &mut self,
        sender: Sender,
        packet: &Packet<'_>,
        datagram: &Udp<'_>,
        now: Millis,
    ) -> Option<()> {
        let ipv6 = self.config.ipv6.filter(|ipv6| ipv6.dhcp != Dhcp6::Off)?;
        if datagram.destination != dhcp6::SERVER_PORT {
            return None;
        }
        let network = Network {
            mac: self.config.mac,
            dns: ipv6.dns,
            domain: self.config.domain.clone(),
            lease: self.config.lease,
        };
        let request = Request::parse(datagram.payload)?;
        let purpose = request.purpose(&network)?;
        if ipv6.dhcp == Dhcp6::Information && purpose != Purpose::Information {
            return None;
        }
        self.learn_guest(sender, packet)?;
        let name = request.hostname();
        let client = Client {
            mac: sender.card,
            id: request.client,
            name: name.as_deref(),
        };
        let (granted, status) = self.grant(&request, purpose, &client, now)?;
        let message = request.answer(&granted, status, &network);
        let from = IpAddr::V6(self.config.link_local());
        let from = SocketAddr::new(from, dhcp6::SERVER_PORT);
        let to = SocketAddr::new(packet.source, dhcp6::CLIENT_PORT);
        self.output.udp(from, to, &message);
        Some(())
    }

    /// What becomes of the client's associations, and of the whole; `None` if there is nothing to answer.
    fn grant(
        &mut self,
        request: &Request<'_>,
        purpose: Purpose,
        client: &Client<'_>,
        now: Millis,
    ) -> Option<(Vec<Granted>, Option<Status>)> {
        let had = || request.ias.iter().flat_map(|ia| ia.addresses.iter().copied());
        match purpose {
            Purpose::Information => Some((Vec::new(), None)),
            Purpose::Solicit { rapid } => Some((self.give(request, client, rapid, now), None)),
            Purpose::Take => Some((self.give(request, client, true, now), None)),
            Purpose::Confirm => {
                // Nothing can be said of no addresses (18.3.3).
                had().next()?;
                let ipv6 = self.config.ipv6?;
                let fits = had().all(|address| ipv6.contains(address));
                let status = if fits { Status::Success } else { Status::NotOnLink };
                Some((Vec::new(), Some(status)))
            }
            Purpose::Release => Some(self.take_back(request, |core, address| {
                locked(&core.directory).release6(client.mac, address)
            })),
            Purpose::Decline => Some(self.take_back(request, |core, address| {
                locked(&core.directory).decline6(client.mac, address, now)
            })),
        }
    }

    /// Offers an address to the first association, or gives it. A card has one: others get none.
    fn give(&mut self, request: &Request<'_>, client: &Client<'_>, bind: bool, now: Millis) -> Vec<Granted> {
        let mut directory = locked(&self.directory);
        let mut granted = Vec::new();
        for (index, ia) in request.ias.iter().enumerate() {
            let wanted = ia.addresses.first().copied();
            let address = (index == 0)
                .then(|| directory.offer6(client, wanted, now))
                .flatten();
            if let Some(address) = address.filter(|_| bind) {
                directory.bind6(client, address, now);
            }
            granted.push(grant_of(ia, address));
        }
        granted
    }

    /// Takes back what the client has (18.3.7, 18.3.8).
    fn take_back(
        &self,
        request: &Request<'_>,
        take: impl Fn(&Self, Ipv6Addr) -> bool,
    ) -> (Vec<Granted>, Option<Status>) {
        let mut unknown = Vec::new();
        for ia in &request.ias {
            let taken = ia
                .addresses
                .iter()
                .filter(|address| take(self, **address))
                .count();
            if taken == 0 {
                unknown.push(Granted {
                    id: ia.id,
                    address: None,
                    gone: Vec::new(),
                    status: Some(Status::NoBinding),
                });
            }
        }
        (unknown, Some(Status::Success))
    }
}

/// An association that has `address` from now on, and nothing else.
fn grant_of(ia: &Ia, address: Option<Ipv6Addr>) -> Granted {
    let gone = ia.addresses.iter().copied();
    Granted {
        id: ia.id,
        address,
        gone: gone.filter(|gone| Some(*gone) != address).collect(),
        status: address.is_none().then_some(Status::NoAddresses),
    }
}
