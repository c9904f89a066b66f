//! Who has which Ethernet address.

use super::Core;
use crate::wire::{ETHERTYPE_ARP, Mac, address_at};

impl Core {
    /// Answers who has our addresses, and takes answers to us (RFC 826).
    pub(super) fn input_arp(&mut self, source: Mac, payload: &[u8]) -> Option<()> {
        const HEADER: [u8; 7] = [0, 1, 8, 0, 6, 4, 0];
        let message = payload.get(..28)?;
        let (sender, target) = (address_at(message, 14)?, address_at(message, 24)?);
        if message[..7] != HEADER || !self.is_ours(target) {
            return None;
        }
        if self.is_guest(sender) {
            self.output.learn(sender, source);
        }
        if message[7] != 1 {
            return None;
        }
        let mut reply = [0; 28];
        reply[..7].copy_from_slice(&HEADER);
        reply[7] = 2;
        reply[8..14].copy_from_slice(&self.config.mac);
        reply[14..18].copy_from_slice(&target.octets());
        reply[18..28].copy_from_slice(&message[8..18]);
        self.output.ethernet(source, ETHERTYPE_ARP, &reply);
        Some(())
    }
}
