//! The DHCP server at work.

use std::net::SocketAddr;

use super::Core;
use crate::dhcp::{self, Purpose};
use crate::guests::{Client, locked};
use crate::time::Millis;

impl Core {
    pub(super) fn input_dhcp(&mut self, payload: &[u8], now: Millis) -> Option<()> {
        if !self.config.dhcp {
            return None;
        }
        let request = dhcp::Request::parse(payload)?;
        let client = request.client;
        if client[0] & 1 != 0 {
            return None;
        }
        let mut directory = locked(&self.directory);
        let address = match request.purpose(self.network.server)? {
            Purpose::Discover | Purpose::Take => {
                let name = request.hostname();
                let asking = Client {
                    mac: client,
                    id: request.client_id,
                    name: name.as_deref(),
                };
                let address = directory.offer(&asking, request.wanted(), now);
                if let Some(address) = address.filter(|address| request.takes(*address)) {
                    directory.bind(&asking, address, now);
                }
                address
            }
            Purpose::Inform => None,
            Purpose::Release(address) => {
                directory.release(client, address);
                return None;
            }
            Purpose::Decline(address) => {
                directory.decline(client, address, now);
                return None;
            }
        };
        drop(directory);
        let answer = request.answer(address, &self.network)?;
        // Only what it was given: a client may claim to have any address.
        if Some(answer.to) == address {
            self.output.learn(answer.to, client);
        }
        let from = SocketAddr::new(self.network.server.into(), dhcp::SERVER_PORT);
        let to = SocketAddr::new(answer.to.into(), dhcp::CLIENT_PORT);
        self.output.udp(from, to, &answer.message);
        Some(())
    }
}
