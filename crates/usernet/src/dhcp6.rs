//! The DHCPv6 server (RFC 8415, with the options of RFC 3646 and RFC 4704): messages in and out. Who gets which address is said by
//! the caller.

use std::net::Ipv6Addr;

use crate::ndp::encode_name;
use crate::wire::{Mac, address6_at, u16_at, u32_at};

/// Where servers and clients listen.
pub const SERVER_PORT: u16 = 547;
pub const CLIENT_PORT: u16 = 546;
/// All servers on the link (7.1).
pub const ALL_SERVERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 1, 2);

/// Message types (7.3).
const SOLICIT: u8 = 1;
const ADVERTISE: u8 = 2;
const REQUEST: u8 = 3;
const CONFIRM: u8 = 4;
const RENEW: u8 = 5;
const REBIND: u8 = 6;
const REPLY: u8 = 7;
const RELEASE: u8 = 8;
const DECLINE: u8 = 9;
const INFORMATION_REQUEST: u8 = 11;

/// Options (21).
const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_TA: u16 = 4;
const IA_ADDRESS: u16 = 5;
const STATUS: u16 = 13;
const RAPID_COMMIT: u16 = 14;
const DNS_SERVERS: u16 = 23;
const DOMAIN_LIST: u16 = 24;
const IA_PD: u16 = 25;
const REFRESH_TIME: u16 = 32;
const CLIENT_FQDN: u16 = 39;

/// Bytes of a DUID (11.1).
const DUIDS: std::ops::RangeInclusive<usize> = 3..=130;
/// Identity associations of a message that are looked at, and addresses in them.
const MAX_IAS: usize = 8;
const MAX_ADDRESSES: usize = 8;

/// Status codes (21.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Success = 0,
    NoAddresses = 2,
    NoBinding = 3,
    NotOnLink = 4,
}

/// What a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To hear of addresses; with rapid commit, to have them at once.
    Solicit { rapid: bool },
    /// To have them, or have them for longer.
    Take,
    /// To know whether its addresses belong to this link.
    Confirm,
    /// To give them back.
    Release,
    /// To say that they are somebody else's.
    Decline,
    /// To hear of the rest only.
    Information,
}

/// An identity association (21.4): a part of the client that gets addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ia {
    pub id: [u8; 4],
    /// What it has, or would like.
    pub addresses: Vec<Ipv6Addr>,
}

/// What a client asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    kind: u8,
    transaction: [u8; 3],
    /// The client's DUID.
    pub client: Option<&'a [u8]>,
    server: Option<&'a [u8]>,
    pub ias: Vec<Ia>,
    /// Associations of other kinds than we serve are there.
    other_ias: bool,
    rapid: bool,
    fqdn: Option<&'a [u8]>,
}

/// What the server hands out beside addresses.
#[derive(Debug, Clone)]
pub struct Network {
    pub mac: Mac,
    pub dns: Option<Ipv6Addr>,
    /// The domain that short names are completed with; empty if there is none.
    pub domain: String,
    /// Seconds that a lease lasts.
    pub lease: u32,
}

/// What becomes of an identity association.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    pub id: [u8; 4],
    pub address: Option<Ipv6Addr>,
    /// What it had and is not to use any longer.
    pub gone: Vec<Ipv6Addr>,
    /// Why there is no address.
    pub status: Option<Status>,
}

/// Takes options one by one; an error if one is cut off.
struct Options<'a>(&'a [u8]);

impl<'a> Iterator for Options<'a> {
    type Item = Result<(u16, &'a [u8]), ()>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let option = u16_at(self.0, 0).zip(u16_at(self.0, 2)).and_then(|(code, len)| {
            let (value, rest) = self.0[4..].split_at_checked(usize::from(len))?;
            self.0 = rest;
            Some((code, value))
        });
        if option.is_none() {
            self.0 = &[];
        }
        Some(option.ok_or(()))
    }
}

impl Network {
    /// The server's DUID, made of its card's address (11.4).
    fn duid(&self) -> [u8; 10] {
        let [a, b, c, d, e, f] = self.mac;
        [0, 3, 0, 1, a, b, c, d, e, f]
    }
}

impl<'a> Request<'a> {
    /// The request in the payload of a datagram.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let ([kind, transaction @ ..], options) = bytes.split_first_chunk::<4>()?;
        let mut request = Self {
            kind: *kind,
            transaction: *transaction,
            client: None,
            server: None,
            ias: Vec::new(),
            other_ias: false,
            rapid: false,
            fqdn: None,
        };
        for option in Options(options) {
            match option.ok()? {
                (CLIENT_ID, id) => request.client = Some(id).filter(|id| DUIDS.contains(&id.len())),
                (SERVER_ID, id) => request.server = Some(id),
                (IA_NA, value) if request.ias.len() < MAX_IAS => request.ias.push(parse_ia(value)?),
                (IA_TA | IA_PD, _) => request.other_ias = true,
                (RAPID_COMMIT, []) => request.rapid = true,
                (CLIENT_FQDN, value) => request.fqdn = Some(value),
                _ => {}
            }
        }
        Some(request)
    }

    /// What it is for; none if it is for another server, or makes no sense (16).
    pub fn purpose(&self, network: &Network) -> Option<Purpose> {
        let ours = self.server == Some(&network.duid()[..]);
        let to_anyone = self.client.is_some() && self.server.is_none();
        let to_us = self.client.is_some() && ours;
        match self.kind {
            SOLICIT if to_anyone => Some(Purpose::Solicit { rapid: self.rapid }),
            REQUEST | RENEW if to_us => Some(Purpose::Take),
            REBIND if to_anyone => Some(Purpose::Take),
            CONFIRM if to_anyone => Some(Purpose::Confirm),
            RELEASE if to_us => Some(Purpose::Release),
            DECLINE if to_us => Some(Purpose::Decline),
            INFORMATION_REQUEST if self.server.is_none() || ours => {
                (self.ias.is_empty() && !self.other_ias).then_some(Purpose::Information)
            }
            _ => None,
        }
    }

    /// The name that the client gives itself, if its first label can be one of a host (RFC 4704, 4).
    pub fn hostname(&self) -> Option<String> {
        let (len, rest) = self.fqdn?.get(1..)?.split_first()?;
        let label = rest.get(..usize::from(*len))?;
        let good = (1..=63).contains(&label.len())
            && label
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
        good.then(|| String::from_utf8_lossy(label).to_ascii_lowercase())
    }

    /// The answer: what becomes of the associations, the status of the whole, and what there is beside addresses.
    pub fn answer(&self, granted: &[Granted], status: Option<Status>, network: &Network) -> Vec<u8> {
        let solicited = self.kind == SOLICIT && !self.rapid;
        let mut message = vec![if solicited { ADVERTISE } else { REPLY }];
        message.extend(self.transaction);
        put(&mut message, SERVER_ID, &network.duid());
        if let Some(client) = self.client {
            put(&mut message, CLIENT_ID, client);
        }
        if self.kind == SOLICIT && self.rapid {
            put(&mut message, RAPID_COMMIT, &[]);
        }
        for ia in granted {
            put(&mut message, IA_NA, &association(ia, network.lease));
        }
        if let Some(status) = status {
            put(&mut message, STATUS, &(status as u16).to_be_bytes());
        }
        if matches!(self.kind, CONFIRM | RELEASE | DECLINE) {
            return message;
        }
        if let Some(dns) = network.dns {
            put(&mut message, DNS_SERVERS, &dns.octets());
        }
        if !network.domain.is_empty() {
            put(&mut message, DOMAIN_LIST, &encode_name(&network.domain));
        }
        if self.kind == INFORMATION_REQUEST {
            put(&mut message, REFRESH_TIME, &network.lease.max(600).to_be_bytes());
        }
        message
    }
}

fn parse_ia(value: &[u8]) -> Option<Ia> {
    let (fixed, options) = value.split_at_checked(12)?;
    let mut ia = Ia {
        id: *fixed.first_chunk()?,
        addresses: Vec::new(),
    };
    for option in Options(options) {
        let (code, value) = option.ok()?;
        if code == IA_ADDRESS && ia.addresses.len() < MAX_ADDRESSES {
            // Behind the address are two times.
            u32_at(value, 20)?;
            ia.addresses.push(address6_at(value, 0)?);
        }
    }
    Some(ia)
}

/// The value of an association's option.
fn association(ia: &Granted, lease: u32) -> Vec<u8> {
    let mut value = ia.id.to_vec();
    // When to renew here, and when with anyone (14.2): after a half and after four fifths.
    let (renew, rebind) = match ia.address {
        Some(_) => (lease / 2, lease / 5 * 4),
        None => (0, 0),
    };
    value.extend(renew.to_be_bytes());
    value.extend(rebind.to_be_bytes());
    let gone = ia.gone.iter().map(|address| (*address, 0));
    for (address, lifetime) in gone.chain(ia.address.map(|address| (address, lease))) {
        let mut option = address.octets().to_vec();
        // Preferred and valid.
        option.extend(u32::to_be_bytes(lifetime));
        option.extend(u32::to_be_bytes(lifetime));
        put(&mut value, IA_ADDRESS, &option);
    }
    if let Some(status) = ia.status {
        put(&mut value, STATUS, &(status as u16).to_be_bytes());
    }
    value
}

/// Adds an option; ours are short.
fn put(message: &mut Vec<u8>, code: u16, value: &[u8]) {
    message.extend(code.to_be_bytes());
    message.extend((value.len() as u16).to_be_bytes());
    message.extend(value);
}

#[cfg(test)]
pub mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADDRESS: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x15);
    const CLIENT: [u8; 10] = [0, 3, 0, 1, 2, 0, 0, 0, 0, 1];

    fn network() -> Network {
        Network {
            mac: [0x52, 0x55, 0, 0, 0, 1],
            dns: Some("fd00::3".parse().unwrap()),
            domain: "lan.example".into(),
            lease: 3600,
        }
    }

    /// A client's message with these options behind its identifier.
    fn message(kind: u8, options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![kind, 1, 2, 3];
        put(&mut bytes, CLIENT_ID, &CLIENT);
        for (code, value) in options {
            put(&mut bytes, *code, value);
        }
        bytes
    }

    fn association_of(address: Ipv6Addr) -> Vec<u8> {
        association(
            &Granted {
                id: *b"abcd",
                address: Some(address),
                gone: Vec::new(),
                status: None,
            },
            100,
        )
    }

    /// The options of an answer.
    fn options(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let all = Options(bytes).map(Result::unwrap);
        all.map(|(code, value)| (code, value.to_vec())).collect()
    }

    #[test]
    fn a_solicitation_is_advertised_to() {
        let network = network();
        let bytes = message(SOLICIT, &[(IA_NA, &[7; 12]), (8, &[0, 0]), (6, &[0, 23])]);
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.purpose(&network), Some(Purpose::Solicit { rapid: false }));
        assert_eq!(request.client, Some(&CLIENT[..]));
        let granted = Granted {
            id: request.ias[0].id,
            address: Some(ADDRESS),
            gone: Vec::new(),
            status: None,
        };
        let answer = request.answer(&[granted], None, &network);
        assert_eq!(answer[..4], [ADVERTISE, 1, 2, 3]);
        let options = options(&answer[4..]);
        assert_eq!(options[0], (SERVER_ID, network.duid().to_vec()));
        assert_eq!(options[1], (CLIENT_ID, CLIENT.to_vec()));
        let (code, association) = &options[2];
        assert_eq!((*code, &association[..4]), (IA_NA, &[7; 4][..]));
        assert_eq!(
            (u32_at(association, 4), u32_at(association, 8)),
            (Some(1800), Some(2880))
        );
        assert_eq!(association[12..16], [0, 5, 0, 24]);
        assert_eq!(association[16..32], ADDRESS.octets());
        assert_eq!(u32_at(association, 36), Some(3600), "valid as long as the lease");
        assert_eq!(options[3].0, DNS_SERVERS);
        assert_eq!(options[4], (DOMAIN_LIST, b"\x03lan\x07example\0".to_vec()));
        let bytes = message(SOLICIT, &[(IA_NA, &[7; 12]), (RAPID_COMMIT, &[])]);
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.purpose(&network), Some(Purpose::Solicit { rapid: true }));
        assert_eq!(request.answer(&[], None, &network)[0], REPLY);
    }

    #[test]
    fn what_is_for_another_server_or_makes_no_sense_is_left_alone() {
        let network = network();
        let duid = network.duid();
        let purpose = |bytes: &[u8]| Request::parse(bytes)?.purpose(&network);
        let ia = association_of(ADDRESS);
        let taken = message(REQUEST, &[(SERVER_ID, &duid), (IA_NA, &ia)]);
        assert_eq!(purpose(&taken), Some(Purpose::Take));
        assert_eq!(Request::parse(&taken).unwrap().ias[0].addresses, [ADDRESS]);
        for (bytes, wanted) in [
            (
                message(RENEW, &[(SERVER_ID, &duid), (IA_NA, &ia)]),
                Some(Purpose::Take),
            ),
            (message(RENEW, &[(IA_NA, &ia)]), None),
            (message(REBIND, &[(IA_NA, &ia)]), Some(Purpose::Take)),
            (message(REBIND, &[(SERVER_ID, &duid)]), None),
            (
                message(REQUEST, &[(SERVER_ID, &[0, 3, 0, 1]), (IA_NA, &ia)]),
                None,
            ),
            (message(SOLICIT, &[(SERVER_ID, &duid)]), None),
            (message(CONFIRM, &[(IA_NA, &ia)]), Some(Purpose::Confirm)),
            (message(RELEASE, &[(SERVER_ID, &duid)]), Some(Purpose::Release)),
            (message(DECLINE, &[(SERVER_ID, &duid)]), Some(Purpose::Decline)),
            (vec![INFORMATION_REQUEST, 0, 0, 0], Some(Purpose::Information)),
            (message(INFORMATION_REQUEST, &[(IA_NA, &ia)]), None),
            (message(INFORMATION_REQUEST, &[(IA_PD, &[0; 12])]), None),
            (vec![SOLICIT, 0, 0, 0], None),
            (message(12, &[]), None),
            (message(ADVERTISE, &[]), None),
        ] {
            assert_eq!(purpose(&bytes), wanted, "{bytes:?}");
        }
        // Cut off within an option, and an association or an address that is too short.
        assert_eq!(Request::parse(&taken[..taken.len() - 1]), None);
        assert_eq!(Request::parse(&message(SOLICIT, &[(IA_NA, &[0; 11])])), None);
        let short = [&[0; 12][..], &[0, 5, 0, 16], &[0; 16]].concat();
        assert_eq!(Request::parse(&message(SOLICIT, &[(IA_NA, &short)])), None);
    }

    #[test]
    fn names_come_with_the_fqdn() {
        let named = |value: &[u8]| {
            let bytes = message(SOLICIT, &[(CLIENT_FQDN, value)]);
            Request::parse(&bytes).unwrap().hostname()
        };
        assert_eq!(named(b"\0\x04Vm-1\x03lan\0"), Some("vm-1".into()));
        assert_eq!(named(b"\0\x04Vm-1"), Some("vm-1".into()), "a part of a name");
        for bad in [
            &b""[..],
            b"\0",
            b"\0\0",
            b"\0\x05vm",
            b"\0\x03a b\0",
            b"\0\xc0\x0c",
        ] {
            assert_eq!(named(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn what_is_gone_has_no_time_left_and_information_has_no_addresses() {
        let network = network();
        let ia = Granted {
            id: *b"abcd",
            address: None,
            gone: vec![ADDRESS],
            status: Some(Status::NoAddresses),
        };
        let value = association(&ia, 3600);
        assert_eq!(value[4..12], [0; 8]);
        assert_eq!(value[32..40], [0; 8]);
        assert_eq!(value[40..], [0, 13, 0, 2, 0, 2]);
        let bytes = [INFORMATION_REQUEST, 9, 9, 9];
        let answer = Request::parse(&bytes).unwrap().answer(&[], None, &network);
        let codes: Vec<u16> = options(&answer[4..]).iter().map(|(code, _)| *code).collect();
        assert_eq!(codes, [SERVER_ID, DNS_SERVERS, DOMAIN_LIST, REFRESH_TIME]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_understood_or_refused(
            kind in 0u8..14,
            options in prop::collection::vec((0u16..45, prop::collection::vec(any::<u8>(), 0..60)), 0..12),
            cut in 0usize..800,
        ) {
            let mut bytes = vec![kind, 1, 2, 3];
            for (code, value) in &options {
                put(&mut bytes, *code, value);
            }
            bytes.truncate(cut);
            if let Some(request) = Request::parse(&bytes) {
                request.hostname();
                request.purpose(&network());
                prop_assert!(request.ias.len() <= MAX_IAS);
                let answer = request.answer(&[], Some(Status::Success), &network());
                prop_assert!(Options(&answer[4..]).all(|option| option.is_ok()));
            }
        }
    }
}
