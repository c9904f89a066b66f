//! Which card has which address, of both families: what ARP and neighbour discovery find out, and what frames say by themselves.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};

use crate::wire::Mac;

/// Addresses whose card is known at most, those of one card, and those that are asked for at a time.
const MAX_NEIGHBOURS: usize = 4096;
const MAX_OF_CARD: usize = 32;
const MAX_ASKED: usize = 64;

/// Whose connections and flows count together: those of a card, whichever of its addresses they have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Owner {
    Card(Mac),
    /// Whose card is not known yet.
    Address(IpAddr),
}

/// The table.
#[derive(Debug, Default)]
pub struct Neighbours {
    cards: HashMap<IpAddr, Mac>,
    /// The same by card, in the order in which they were learned.
    addresses: HashMap<Mac, VecDeque<IpAddr>>,
    /// Who was asked of late.
    asked: HashSet<IpAddr>,
}

impl Neighbours {
    /// Notes that `address` is at `card`. A card with too many loses its oldest; when there are too many in all, some other is
    /// forgotten, and will be asked.
    pub fn learn(&mut self, address: IpAddr, card: Mac) {
        if self.cards.get(&address) == Some(&card) {
            return;
        }
        self.forget(address);
        let own = self.addresses.get(&card);
        let oldest = own
            .filter(|own| own.len() >= MAX_OF_CARD)
            .and_then(VecDeque::front);
        let full = || {
            self.cards
                .keys()
                .next()
                .filter(|_| self.cards.len() >= MAX_NEIGHBOURS)
        };
        if let Some(gone) = oldest.or_else(full).copied() {
            self.forget(gone);
        }
        self.cards.insert(address, card);
        self.addresses.entry(card).or_default().push_back(address);
    }

    fn forget(&mut self, address: IpAddr) {
        let Some(card) = self.cards.remove(&address) else {
            return;
        };
        if let Some(own) = self.addresses.get_mut(&card) {
            own.retain(|other| *other != address);
            if own.is_empty() {
                self.addresses.remove(&card);
            }
        }
    }

    /// The card of `address`.
    pub fn card(&self, address: IpAddr) -> Option<Mac> {
        self.cards.get(&address).copied()
    }

    /// To whom `address` belongs.
    pub fn owner(&self, address: IpAddr) -> Owner {
        self.card(address).map_or(Owner::Address(address), Owner::Card)
    }

    /// An address of IPv6 that `card` has used, of those that fit: the one made of its own (RFC 4291, 2.5.1), or the latest.
    pub fn address6(&self, card: &Mac, fits: impl Fn(&Ipv6Addr) -> bool) -> Option<Ipv6Addr> {
        let own = self.addresses.get(card)?;
        let all = || {
            let v6 = own.iter().rev().filter_map(|address| match address {
                IpAddr::V6(address) => Some(*address),
                IpAddr::V4(_) => None,
            });
            v6.filter(&fits)
        };
        let id = interface_id(card);
        let stable = all().find(|address| address.octets()[8..] == id);
        stable.or_else(|| all().next())
    }

    /// True if `address` may be asked for now; then it is not again until [`Neighbours::ask_again`].
    pub fn ask(&mut self, address: IpAddr) -> bool {
        self.asked.len() < MAX_ASKED && self.asked.insert(address)
    }

    /// Those who were asked for their card may be asked again.
    pub fn ask_again(&mut self) {
        self.asked.clear();
    }
}

/// The second half of an address that is made of a card's (RFC 4291, appendix A).
fn interface_id(card: &Mac) -> [u8; 8] {
    let [a, b, c, d, e, f] = *card;
    [a ^ 2, b, c, 0xff, 0xfe, d, e, f]
}

/// The address that a card has on its own link (RFC 4862, 5.3).
pub fn link_local(card: &Mac) -> Ipv6Addr {
    let mut octets = [0; 16];
    octets[..2].copy_from_slice(&[0xfe, 0x80]);
    octets[8..].copy_from_slice(&interface_id(card));
    octets.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_has_a_bounded_number_of_addresses_and_pushes_out_its_own() {
        let mut table = Neighbours::default();
        let (first, other) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let at = |number: u128| IpAddr::V6(Ipv6Addr::from_bits((0xfd << 120) | number));
        table.learn(at(1), first);
        for number in 2..100_000 {
            table.learn(at(number), other);
        }
        assert_eq!(table.card(at(1)), Some(first));
        assert_eq!(table.cards.len(), 1 + MAX_OF_CARD);
        assert_eq!(table.card(at(2)), None);
        assert_eq!(table.owner(at(99_999)), Owner::Card(other));
        // An address moves with its card, and many cards have their bound, too.
        table.learn(at(1), other);
        assert_eq!(table.addresses.get(&first), None);
        for number in 0..10_000u32 {
            let [a, b, c, d] = number.to_be_bytes();
            table.learn(at(1_000_000 + u128::from(number)), [6, 0, a, b, c, d]);
        }
        assert_eq!(table.cards.len(), MAX_NEIGHBOURS);
        let of_cards: usize = table.addresses.values().map(VecDeque::len).sum();
        assert_eq!(of_cards, MAX_NEIGHBOURS);
    }

    #[test]
    fn the_address_made_of_the_card_is_preferred() {
        let mut table = Neighbours::default();
        let card = [0x52, 0x54, 0, 0x12, 0x34, 0x56];
        assert_eq!(link_local(&card).to_string(), "fe80::5054:ff:fe12:3456");
        let any = |_: &Ipv6Addr| true;
        assert_eq!(table.address6(&card, any), None);
        let stable: Ipv6Addr = "fd00::5054:ff:fe12:3456".parse().unwrap();
        let temporary: Ipv6Addr = "fd00::1".parse().unwrap();
        table.learn(temporary.into(), card);
        assert_eq!(table.address6(&card, any), Some(temporary));
        table.learn(stable.into(), card);
        table.learn("fd00::2".parse().unwrap(), card);
        assert_eq!(table.address6(&card, any), Some(stable));
        assert_eq!(
            table.address6(&card, |address| *address == temporary),
            Some(temporary)
        );
    }

    #[test]
    fn who_was_asked_is_not_asked_at_once_again() {
        let mut table = Neighbours::default();
        let at = |number: u32| IpAddr::V4(number.into());
        assert!(table.ask(at(1)) && !table.ask(at(1)));
        let asked = (2..1000).filter(|number| table.ask(at(*number))).count();
        assert_eq!(asked, MAX_ASKED - 1);
        table.ask_again();
        assert!(table.ask(at(1)));
    }
}
