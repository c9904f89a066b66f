//! Where the transport's structures are: capabilities and BARs (virtio 1.2, 4.1.4).

use ostler_pci::{ConfigBuilder, regs};

use super::common::COMMON_SIZE;

/// BAR of the MSI-X table.
pub(crate) const MSIX_BAR: usize = 1;
/// BAR of everything else.
pub(crate) const REGISTER_BAR: usize = 4;
/// Bytes of that BAR.
pub(crate) const REGISTER_SIZE: u64 = 0x4000;

pub(crate) const COMMON: u64 = 0x0000;
pub(crate) const ISR: u64 = 0x1000;
pub(crate) const DEVICE: u64 = 0x2000;
pub(crate) const DEVICE_SIZE: u64 = 0x1000;
pub(crate) const NOTIFY: u64 = 0x3000;
/// Bytes between two queues' notification registers.
pub(crate) const NOTIFY_STRIDE: u64 = 4;
/// Most queues that the notification region has room for.
pub(crate) const MAX_QUEUES: usize = ((REGISTER_SIZE - NOTIFY) / NOTIFY_STRIDE) as usize;

const CFG_COMMON: u8 = 1;
const CFG_NOTIFY: u8 = 2;
const CFG_ISR: u8 = 3;
const CFG_DEVICE: u8 = 4;
const CFG_PCI: u8 = 5;

/// Adds the five vendor capabilities; returns the offset of the one for access through configuration space.
pub(crate) fn add_capabilities(config: &mut ConfigBuilder, queues: usize) -> u16 {
    let notify_len = (queues as u64 * NOTIFY_STRIDE) as u32;
    config.capability(
        regs::CAP_VENDOR,
        &body(CFG_COMMON, COMMON, COMMON_SIZE as u32, &[]),
        &[],
    );
    let stride = (NOTIFY_STRIDE as u32).to_le_bytes();
    config.capability(
        regs::CAP_VENDOR,
        &body(CFG_NOTIFY, NOTIFY, notify_len, &stride),
        &[],
    );
    config.capability(regs::CAP_VENDOR, &body(CFG_ISR, ISR, 1, &[]), &[]);
    config.capability(
        regs::CAP_VENDOR,
        &body(CFG_DEVICE, DEVICE, DEVICE_SIZE as u32, &[]),
        &[],
    );
    let mut window = body(CFG_PCI, 0, 0, &[0; 4]);
    window[2] = 0; // the driver chooses the BAR
    let mut writable = vec![0; window.len()];
    writable[2] = 0xff;
    writable[6..14].fill(0xff);
    config.capability(regs::CAP_VENDOR, &window, &writable)
}

/// struct virtio_pci_cap from `cap_len` on.
fn body(kind: u8, offset: u64, len: u32, extra: &[u8]) -> Vec<u8> {
    let mut bytes = vec![16 + extra.len() as u8, kind, REGISTER_BAR as u8, 0, 0, 0];
    bytes.extend((offset as u32).to_le_bytes());
    bytes.extend(len.to_le_bytes());
    bytes.extend(extra);
    bytes
}
