//! Features and configuration space of a network device (virtio 1.2, 5.1.3 and 5.1.4).

use ostler_netio::Offloads;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS, VIRTIO_NET_F_CTRL_MAC_ADDR, VIRTIO_NET_F_CTRL_RX,
    VIRTIO_NET_F_CTRL_VLAN, VIRTIO_NET_F_CTRL_VQ, VIRTIO_NET_F_GUEST_ANNOUNCE, VIRTIO_NET_F_GUEST_CSUM,
    VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_USO4,
    VIRTIO_NET_F_GUEST_USO6, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6,
    VIRTIO_NET_F_HOST_USO, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MQ, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_MTU,
    VIRTIO_NET_F_STATUS,
};

/// Bytes of the structure, up to the MTU.
pub(crate) const CONFIG_SIZE: usize = 12;

const fn bit(number: u32) -> u64 {
    1 << number
}

/// What the device offers, by what its back end can do.
pub(crate) fn features(accepts: Offloads, delivers: Offloads, pairs: u16, mtu: bool) -> u64 {
    let mut features = bit(VIRTIO_NET_F_MAC)
        | bit(VIRTIO_NET_F_STATUS)
        | bit(VIRTIO_NET_F_MRG_RXBUF)
        | bit(VIRTIO_NET_F_CTRL_VQ)
        | bit(VIRTIO_NET_F_CTRL_RX)
        | bit(VIRTIO_NET_F_CTRL_VLAN)
        | bit(VIRTIO_NET_F_CTRL_MAC_ADDR)
        | bit(VIRTIO_NET_F_GUEST_ANNOUNCE);
    let mut offer = |able: bool, number: u32| {
        if able {
            features |= bit(number);
        }
    };
    offer(pairs > 1, VIRTIO_NET_F_MQ);
    offer(mtu, VIRTIO_NET_F_MTU);
    offer(accepts.checksum, VIRTIO_NET_F_CSUM);
    offer(accepts.tso4, VIRTIO_NET_F_HOST_TSO4);
    offer(accepts.tso6, VIRTIO_NET_F_HOST_TSO6);
    offer(accepts.ecn, VIRTIO_NET_F_HOST_ECN);
    offer(accepts.uso, VIRTIO_NET_F_HOST_USO);
    offer(delivers.checksum, VIRTIO_NET_F_GUEST_CSUM);
    offer(delivers.checksum, VIRTIO_NET_F_CTRL_GUEST_OFFLOADS);
    offer(delivers.tso4, VIRTIO_NET_F_GUEST_TSO4);
    offer(delivers.tso6, VIRTIO_NET_F_GUEST_TSO6);
    offer(delivers.ecn, VIRTIO_NET_F_GUEST_ECN);
    offer(delivers.uso, VIRTIO_NET_F_GUEST_USO4);
    offer(delivers.uso, VIRTIO_NET_F_GUEST_USO6);
    features
}

/// The offloads of received frames among negotiated features, or in a guest-offloads command, which uses the same bits.
pub(crate) fn delivered(features: u64) -> Offloads {
    let has = |number: u32| features & bit(number) != 0;
    let checksum = has(VIRTIO_NET_F_GUEST_CSUM);
    Offloads {
        checksum,
        tso4: checksum && has(VIRTIO_NET_F_GUEST_TSO4),
        tso6: checksum && has(VIRTIO_NET_F_GUEST_TSO6),
        ecn: checksum && has(VIRTIO_NET_F_GUEST_ECN),
        uso: checksum && has(VIRTIO_NET_F_GUEST_USO4) && has(VIRTIO_NET_F_GUEST_USO6),
    }
}

/// The structure.
pub(crate) fn structure(mac: [u8; 6], status: u16, pairs: u16, mtu: u16) -> [u8; CONFIG_SIZE] {
    let mut config = [0; CONFIG_SIZE];
    config[..6].copy_from_slice(&mac);
    config[6..8].copy_from_slice(&status.to_le_bytes());
    config[8..10].copy_from_slice(&pairs.to_le_bytes());
    config[10..].copy_from_slice(&mtu.to_le_bytes());
    config
}
