//! Commands of the control queue (virtio 1.2, 5.1.6.5).

use virtio_bindings::virtio_net::{
    VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, VIRTIO_NET_CTRL_GUEST_OFFLOADS,
    VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET,
    VIRTIO_NET_CTRL_MAC_TABLE_SET, VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, VIRTIO_NET_CTRL_RX,
    VIRTIO_NET_CTRL_RX_ALLMULTI, VIRTIO_NET_CTRL_RX_PROMISC, VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD,
    VIRTIO_NET_CTRL_VLAN_DEL, VIRTIO_NET_ERR, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN,
    VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4, VIRTIO_NET_F_GUEST_USO6,
    VIRTIO_NET_OK,
};

use super::config;
use super::shared::Shared;
use crate::chain::Chain;
use crate::error::GuestError;
use crate::queue_server::Answer;

/// Class and command in front of the data.
const HEADER_LEN: usize = 2;

/// The bits that a guest-offloads command may set.
const OFFLOAD_BITS: u64 = 1 << VIRTIO_NET_F_GUEST_CSUM
    | 1 << VIRTIO_NET_F_GUEST_TSO4
    | 1 << VIRTIO_NET_F_GUEST_TSO6
    | 1 << VIRTIO_NET_F_GUEST_ECN
    | 1 << VIRTIO_NET_F_GUEST_USO4
    | 1 << VIRTIO_NET_F_GUEST_USO6;

/// What a command asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Receive filters: a filter lets through what it should at least, and this one lets everything through.
    Filter,
    SetMac([u8; 6]),
    AnnounceAck,
    SetPairs(u16),
    SetOffloads(u64),
}

/// Reads the command in `chain`; `None` if it is unknown or of a wrong length.
pub(crate) fn parse(chain: &Chain) -> Option<Command> {
    let mut header = [0; HEADER_LEN];
    if chain.read_at(0, &mut header) < HEADER_LEN {
        return None;
    }
    let len = chain.readable_bytes() - HEADER_LEN;
    let mut data = [0; 8];
    chain.read_at(HEADER_LEN, &mut data);
    let [d0, d1, d2, d3, d4, d5, ..] = data;
    let command = (u32::from(header[0]), u32::from(header[1]), len);
    match command {
        (VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC | VIRTIO_NET_CTRL_RX_ALLMULTI, 1) => {
            Some(Command::Filter)
        }
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, _) => {
            mac_tables_fit(chain).then_some(Command::Filter)
        }
        (VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, 6) => {
            Some(Command::SetMac([d0, d1, d2, d3, d4, d5]))
        }
        (VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD | VIRTIO_NET_CTRL_VLAN_DEL, 2) => {
            Some(Command::Filter)
        }
        (VIRTIO_NET_CTRL_ANNOUNCE, VIRTIO_NET_CTRL_ANNOUNCE_ACK, 0) => Some(Command::AnnounceAck),
        (VIRTIO_NET_CTRL_MQ, VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET, 2) => {
            Some(Command::SetPairs(u16::from_le_bytes([d0, d1])))
        }
        (VIRTIO_NET_CTRL_GUEST_OFFLOADS, VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET, 8) => {
            Some(Command::SetOffloads(u64::from_le_bytes(data)))
        }
        _ => None,
    }
}

/// True if the command's two tables, each a count and so many addresses, fill its data exactly.
fn mac_tables_fit(chain: &Chain) -> bool {
    let mut at = HEADER_LEN as u64;
    for _ in 0..2 {
        let mut count = [0; 4];
        if chain.read_at(at as usize, &mut count) < count.len() {
            return false;
        }
        at += 4 + 6 * u64::from(u32::from_le_bytes(count));
        if at > chain.readable_bytes() as u64 {
            return false;
        }
    }
    at == chain.readable_bytes() as u64
}

/// Carries out the command in `chain` and writes the acknowledgement. `features` are the negotiated ones, `pairs` how
/// many queue pairs there are.
///
/// # Errors
/// If there is no room for the acknowledgement.
pub(crate) fn answer(
    chain: &Chain,
    shared: &Shared,
    features: u64,
    pairs: u16,
) -> Result<Answer, GuestError> {
    if chain.writable_bytes() == 0 {
        return Err(GuestError::Request(
            "a network control command without room for its acknowledgement",
        ));
    }
    let done = parse(chain).is_some_and(|command| execute(command, shared, features, pairs));
    let ack = if done { VIRTIO_NET_OK } else { VIRTIO_NET_ERR } as u8;
    chain.write_at(0, &[ack]);
    Ok(Answer::Used(1))
}

fn execute(command: Command, shared: &Shared, features: u64, pairs: u16) -> bool {
    match command {
        Command::Filter => true,
        Command::SetMac(mac) => {
            // A group address is no address of a card.
            let valid = mac[0] & 1 == 0;
            if valid {
                shared.set_mac(mac);
            }
            valid
        }
        Command::AnnounceAck => {
            shared.announced();
            true
        }
        Command::SetPairs(wanted) => (1..=pairs).contains(&wanted) && shared.set_active_pairs(wanted),
        Command::SetOffloads(offloads) => {
            let within = offloads & !(features & OFFLOAD_BITS) == 0;
            within && shared.set_delivered(config::delivered(offloads))
        }
    }
}
