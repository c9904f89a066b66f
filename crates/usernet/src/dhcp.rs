//! The DHCP server (RFC 2131, RFC 2132).

use std::net::Ipv4Addr;

use crate::wire::{Mac, address_at};

/// Where servers listen.
pub const SERVER_PORT: u16 = 67;
/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;
/// Bytes of the fixed part with the magic cookie.
const FIXED_LEN: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];

/// Message types (RFC 2132, 9.6).
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const NAK: u8 = 6;
const RELEASE: u8 = 7;
const INFORM: u8 = 8;

/// What the server hands out beside an address.
#[derive(Debug, Clone)]
pub struct Network {
    pub server: Ipv4Addr,
    pub mask: Ipv4Addr,
    /// None for a guest that is not to leave its network.
    pub router: Option<Ipv4Addr>,
    pub dns: Option<Ipv4Addr>,
    /// The domain that short names are completed with; empty if there is none.
    pub domain: String,
    /// Seconds that a lease lasts.
    pub lease: u32,
}

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// To hear of an address.
    Discover,
    /// To have one.
    Take,
    /// To hear of the rest only.
    Inform,
    /// To give an address back.
    Release(Ipv4Addr),
    /// To say that an address is somebody else's.
    Decline(Ipv4Addr),
}

/// What a client asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    kind: u8,
    transaction: [u8; 4],
    /// Seconds, flags: given back.
    flags: [u8; 2],
    /// The address that it has already, or none.
    current: Ipv4Addr,
    relay: [u8; 4],
    pub client: Mac,
    requested: Option<Ipv4Addr>,
    server: Option<Ipv4Addr>,
    hostname: Option<&'a [u8]>,
    /// What the client calls itself.
    pub client_id: Option<&'a [u8]>,
}

/// What is sent to the client.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub message: Vec<u8>,
    /// Where it goes; the broadcast address if the client has none.
    pub to: Ipv4Addr,
}

impl<'a> Request<'a> {
    /// The request in the payload of a datagram.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (fixed, mut options) = bytes.split_at_checked(FIXED_LEN)?;
        let ethernet = fixed[..3] == [1, 1, 6];
        if !ethernet || fixed[236..] != COOKIE {
            return None;
        }
        let mut request = Self {
            kind: 0,
            transaction: *fixed[4..].first_chunk()?,
            flags: *fixed[10..].first_chunk()?,
            current: address_at(fixed, 12)?,
            relay: *fixed[24..].first_chunk()?,
            client: *fixed[28..].first_chunk()?,
            requested: None,
            server: None,
            hostname: None,
            client_id: None,
        };
        while let [code, rest @ ..] = options {
            options = match (code, rest) {
                (0, _) => rest,
                (255, _) => break,
                (_, [len, rest @ ..]) => {
                    let (value, after) = rest.split_at_checked(usize::from(*len))?;
                    match (code, value) {
                        (53, [kind]) => request.kind = *kind,
                        (50, [_, _, _, _]) => request.requested = address_at(value, 0),
                        (54, [_, _, _, _]) => request.server = address_at(value, 0),
                        (12, name) => request.hostname = Some(name),
                        (61, id) => request.client_id = Some(id),
                        _ => {}
                    }
                    after
                }
                _ => break,
            };
        }
        Some(request)
    }

    /// The name that the client gives itself, if it can be one of a host.
    pub fn hostname(&self) -> Option<String> {
        let name = self.hostname?;
        let good = (1..=63).contains(&name.len())
            && name
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-');
        good.then(|| String::from_utf8_lossy(name).to_ascii_lowercase())
    }

    /// What it is for; none if it is for another server, or makes no sense.
    pub fn purpose(&self, server: Ipv4Addr) -> Option<Purpose> {
        // One that took another server's offer.
        if self.server.is_some_and(|other| other != server) {
            return None;
        }
        match self.kind {
            DISCOVER => Some(Purpose::Discover),
            REQUEST => Some(Purpose::Take),
            INFORM => Some(Purpose::Inform),
            RELEASE => Some(Purpose::Release(self.current)),
            DECLINE => self.requested.map(Purpose::Decline),
            _ => None,
        }
    }

    /// The address that the client would like, or has already.
    pub fn wanted(&self) -> Option<Ipv4Addr> {
        let wanted = self.requested.unwrap_or(self.current);
        (wanted != Ipv4Addr::UNSPECIFIED).then_some(wanted)
    }

    /// True if the client is told that it has `address` when it asks for one.
    pub fn takes(&self, address: Ipv4Addr) -> bool {
        self.kind == REQUEST && self.wanted() == Some(address)
    }

    /// The answer for a client that is to have `address`; `None` if there is none to give.
    pub fn answer(&self, address: Option<Ipv4Addr>, network: &Network) -> Option<Answer> {
        let kind = match self.purpose(network.server)? {
            Purpose::Discover => address.map(|_| OFFER)?,
            Purpose::Take if address.is_some_and(|address| self.takes(address)) => ACK,
            Purpose::Take => NAK,
            Purpose::Inform => ACK,
            Purpose::Release(_) | Purpose::Decline(_) => return None,
        };
        let address = address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let gives = kind != NAK && self.kind != INFORM;
        let mut message = vec![0; FIXED_LEN];
        message[..3].copy_from_slice(&[2, 1, 6]);
        message[4..8].copy_from_slice(&self.transaction);
        message[10..12].copy_from_slice(&self.flags);
        if kind != NAK {
            message[12..16].copy_from_slice(&self.current.octets());
        }
        if gives {
            message[16..20].copy_from_slice(&address.octets());
        }
        message[20..24].copy_from_slice(&network.server.octets());
        message[24..28].copy_from_slice(&self.relay);
        message[28..34].copy_from_slice(&self.client);
        message[236..240].copy_from_slice(&COOKIE);
        let mut option = |code: u8, value: &[u8]| {
            let len = value.len().min(255);
            message.extend([code, len as u8]);
            message.extend(&value[..len]);
        };
        option(53, &[kind]);
        option(54, &network.server.octets());
        if gives {
            option(51, &network.lease.to_be_bytes());
        }
        if kind != NAK {
            option(1, &network.mask.octets());
            if let Some(router) = network.router {
                option(3, &router.octets());
            }
            if let Some(dns) = network.dns {
                option(6, &dns.octets());
            }
            if !network.domain.is_empty() {
                option(15, network.domain.as_bytes());
            }
        }
        message.push(255);
        // Some clients want BOOTP's 300 bytes.
        message.resize(message.len().max(300), 0);
        let broadcast = self.flags[0] & 0x80 != 0;
        let to = match self.current {
            _ if kind == NAK => Ipv4Addr::BROADCAST,
            Ipv4Addr::UNSPECIFIED if broadcast => Ipv4Addr::BROADCAST,
            Ipv4Addr::UNSPECIFIED => address,
            current => current,
        };
        Some(Answer { message, to })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 15);

    fn network() -> Network {
        Network {
            server: Ipv4Addr::new(10, 0, 2, 2),
            mask: Ipv4Addr::new(255, 255, 255, 0),
            router: Some(Ipv4Addr::new(10, 0, 2, 2)),
            dns: Some(Ipv4Addr::new(10, 0, 2, 3)),
            domain: "ostler".into(),
            lease: 86_400,
        }
    }

    fn request(options: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FIXED_LEN];
        bytes[..3].copy_from_slice(&[1, 1, 6]);
        bytes[4..8].copy_from_slice(b"abcd");
        bytes[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        bytes[236..].copy_from_slice(&COOKIE);
        bytes.extend(options);
        bytes
    }

    /// The value of an option in an answer.
    fn option(message: &[u8], code: u8) -> Option<Vec<u8>> {
        let mut rest = &message[FIXED_LEN..];
        while rest[0] != 255 {
            let len = usize::from(rest[1]);
            if rest[0] == code {
                return Some(rest[2..2 + len].to_vec());
            }
            rest = &rest[2 + len..];
        }
        None
    }

    #[test]
    fn an_offer_and_an_acknowledgment() {
        let bytes = request(&[53, 1, DISCOVER, 12, 4, b'V', b'm', b'-', b'1', 255]);
        let discover = Request::parse(&bytes).unwrap();
        assert_eq!(discover.hostname().unwrap(), "vm-1");
        let offer = discover.answer(Some(ADDRESS), &network()).unwrap();
        assert_eq!(offer.to, ADDRESS);
        assert_eq!(&offer.message[4..8], b"abcd");
        assert_eq!(offer.message[16..20], ADDRESS.octets());
        assert_eq!(option(&offer.message, 53), Some(vec![OFFER]));
        assert_eq!(option(&offer.message, 3), Some(vec![10, 0, 2, 2]));
        assert_eq!(option(&offer.message, 6), Some(vec![10, 0, 2, 3]));
        let bytes = request(&[53, 1, REQUEST, 50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 2, 255]);
        let answer = Request::parse(&bytes)
            .unwrap()
            .answer(Some(ADDRESS), &network())
            .unwrap();
        assert_eq!(option(&answer.message, 53), Some(vec![ACK]));
    }

    #[test]
    fn another_address_is_refused_and_another_server_left_alone() {
        let bytes = request(&[53, 1, REQUEST, 50, 4, 10, 0, 2, 99, 255]);
        let answer = Request::parse(&bytes)
            .unwrap()
            .answer(Some(ADDRESS), &network())
            .unwrap();
        assert_eq!(option(&answer.message, 53), Some(vec![NAK]));
        assert_eq!(
            (answer.to, &answer.message[16..20]),
            (Ipv4Addr::BROADCAST, &[0; 4][..])
        );
        let bytes = request(&[53, 1, REQUEST, 50, 4, 10, 0, 2, 15, 54, 4, 10, 0, 2, 9, 255]);
        assert_eq!(
            Request::parse(&bytes).unwrap().answer(Some(ADDRESS), &network()),
            None
        );
        assert_eq!(Request::parse(&request(&[53, 1])), None, "cut off");
    }

    #[test]
    fn addresses_are_given_back_and_declined() {
        let mut bytes = request(&[53, 1, RELEASE, 61, 3, 1, 2, 3, 255]);
        bytes[12..16].copy_from_slice(&ADDRESS.octets());
        let release = Request::parse(&bytes).unwrap();
        assert_eq!(release.purpose(network().server), Some(Purpose::Release(ADDRESS)));
        assert_eq!(release.client_id, Some(&[1, 2, 3][..]));
        assert_eq!(release.answer(Some(ADDRESS), &network()), None);
        let bytes = request(&[53, 1, DECLINE, 50, 4, 10, 0, 2, 15, 255]);
        let decline = Request::parse(&bytes).unwrap();
        assert_eq!(decline.purpose(network().server), Some(Purpose::Decline(ADDRESS)));
        // With none left there is no offer, and who asks for one is told no.
        let bytes = request(&[53, 1, DISCOVER, 255]);
        assert_eq!(Request::parse(&bytes).unwrap().answer(None, &network()), None);
        let bytes = request(&[53, 1, REQUEST, 50, 4, 10, 0, 2, 15, 255]);
        let answer = Request::parse(&bytes).unwrap().answer(None, &network()).unwrap();
        assert_eq!(option(&answer.message, 53), Some(vec![NAK]));
    }

    proptest! {
        #[test]
        fn any_bytes_are_understood_or_refused(options in prop::collection::vec(any::<u8>(), 0..300), cut in 0usize..600) {
            let mut bytes = request(&options);
            bytes.truncate(cut);
            if let Some(request) = Request::parse(&bytes) {
                request.hostname();
                request.answer(Some(ADDRESS), &network());
            }
        }
    }
}
