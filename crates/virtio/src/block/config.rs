//! The configuration space of a block device (virtio 1.2, 5.2.4).

use ostler_disk::{Disk, SECTOR_SIZE};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO,
    VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY, VIRTIO_BLK_F_WRITE_ZEROES,
};

use super::request::{MAX_RANGE_SECTORS, MAX_RANGES};

/// Most data buffers in a request; two more descriptors are header and status.
pub(crate) const SEG_MAX: u32 = 254;

/// Bytes of the structure.
pub(crate) const CONFIG_SIZE: usize = 60;

/// What the device offers.
pub(crate) fn features(disk: &dyn Disk, queues: u16) -> u64 {
    let able = disk.features();
    let mut features = 1 << VIRTIO_BLK_F_SEG_MAX
        | 1 << VIRTIO_BLK_F_BLK_SIZE
        | 1 << VIRTIO_BLK_F_FLUSH
        | 1 << VIRTIO_BLK_F_TOPOLOGY;
    if queues > 1 {
        features |= 1 << VIRTIO_BLK_F_MQ;
    }
    if able.readonly {
        return features | 1 << VIRTIO_BLK_F_RO;
    }
    if able.discard {
        features |= 1 << VIRTIO_BLK_F_DISCARD;
    }
    if able.write_zeroes {
        features |= 1 << VIRTIO_BLK_F_WRITE_ZEROES;
    }
    features
}

/// The structure as it is now.
pub(crate) fn structure(disk: &dyn Disk, queues: u16) -> [u8; CONFIG_SIZE] {
    let topology = disk.topology();
    let block = topology.logical_block.max(SECTOR_SIZE as u32);
    let per_block = |bytes: u32| bytes / block;
    let mut config = [0; CONFIG_SIZE];
    let mut put = |offset: usize, bytes: &[u8]| config[offset..offset + bytes.len()].copy_from_slice(bytes);
    put(0, &(disk.size() / SECTOR_SIZE).to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &block.to_le_bytes());
    put(24, &[per_block(topology.physical_block).max(1).ilog2() as u8, 0]);
    put(
        26,
        &u16::try_from(per_block(topology.minimum_io))
            .unwrap_or(0)
            .to_le_bytes(),
    );
    put(28, &per_block(topology.optimal_io).to_le_bytes());
    put(32, &[1]); // writes are cached until a flush
    put(34, &queues.to_le_bytes());
    put(36, &MAX_RANGE_SECTORS.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(
        44,
        &(topology.discard_granularity.max(block) / SECTOR_SIZE as u32).to_le_bytes(),
    );
    put(48, &MAX_RANGE_SECTORS.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    put(56, &[disk.features().discard.into()]);
    config
}
