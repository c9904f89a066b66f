//! From messages to LAPICs (SDM vol. 3, 11.6 and 11.11).

use std::sync::atomic::Ordering;

use ostler_accel::KickSource;
use ostler_bus::Msi;

use super::shared::Addressing;
use crate::shared::{VcpuShared, VmShared};

/// Whom a message is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// The LAPIC with this id.
    Physical(u32),
    /// Every LAPIC that answers to this logical destination.
    Logical(u32),
    /// Everyone.
    All,
    /// Everyone but the sender.
    AllButSelf,
    /// The sender.
    Myself,
}

/// Delivery modes.
pub mod delivery {
    /// To all destinations.
    pub const FIXED: u8 = 0;
    /// To the one of lowest priority.
    pub const LOWEST: u8 = 1;
    /// System management.
    pub const SMI: u8 = 2;
    /// Non-maskable.
    pub const NMI: u8 = 4;
    /// INIT.
    pub const INIT: u8 = 5;
    /// Start-up.
    pub const STARTUP: u8 = 6;
    /// From the 8259 pair.
    pub const EXTINT: u8 = 7;
}

/// An interrupt message on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message {
    /// For whom.
    pub destination: Destination,
    /// One of [`delivery`].
    pub delivery: u8,
    /// The vector.
    pub vector: u8,
    /// Level triggered.
    pub level: bool,
    /// From a LAPIC, not a device.
    pub ipi: bool,
}

/// True if a LAPIC that is addressed as `a` and has x2APIC id `id` is meant. `sender` counts for shorthands.
pub fn matches(a: &Addressing, id: u32, destination: Destination, sender: Option<u32>) -> bool {
    match destination {
        Destination::All => true,
        Destination::AllButSelf => sender != Some(id),
        Destination::Myself => sender == Some(id),
        Destination::Physical(0xffff_ffff) => true,
        Destination::Physical(0xff) if !a.x2apic => true,
        Destination::Physical(to) => to == if a.x2apic { id } else { u32::from(a.xapic_id) },
        Destination::Logical(0xffff_ffff) => true,
        Destination::Logical(to) if a.x2apic => to >> 16 == a.ldr >> 16 && to & a.ldr & 0xffff != 0,
        Destination::Logical(to) => logical_xapic(a, to),
    }
}

/// Flat and cluster model (SDM vol. 3, 11.6.2.2).
fn logical_xapic(a: &Addressing, to: u32) -> bool {
    const FLAT: u32 = 0xf;
    let (own, to) = (a.ldr >> 24, to & 0xff);
    if a.dfr >> 28 == FLAT {
        return own & to != 0;
    }
    let cluster = to >> 4;
    (cluster == 0xf || cluster == own >> 4) && own & to & 0xf != 0
}

/// Puts `message` into every LAPIC it addresses and pokes their vCPUs.
pub fn deliver(vm: &VmShared, sender: Option<u32>, message: &Message) {
    let source = if message.ipi {
        KickSource::Ipi
    } else {
        KickSource::Device
    };
    // The common case needs no search. Several LAPICs may have one xAPIC id once one of them was given it.
    if let Destination::Physical(id) = message.destination
        && !vm.renumbered.load(Ordering::SeqCst)
        && let Some(vcpu) = vm.vcpu(id)
        && message.delivery != delivery::LOWEST
        && id != 0xff
    {
        let a = vcpu.lapic.addressing();
        if a.x2apic || u32::from(a.xapic_id) == id {
            hand_over(vcpu, message, &a, source);
            return;
        }
    }
    let mut lowest: Option<(&std::sync::Arc<VcpuShared>, Addressing)> = None;
    for vcpu in vm.vcpus() {
        let a = vcpu.lapic.addressing();
        if !matches(&a, vcpu.lapic.id, message.destination, sender) {
            continue;
        }
        if message.delivery != delivery::LOWEST {
            hand_over(vcpu, message, &a, source);
        } else if a.enabled && lowest.as_ref().is_none_or(|(_, best)| a.tpr < best.tpr) {
            lowest = Some((vcpu, a));
        }
    }
    if let Some((vcpu, a)) = lowest {
        hand_over(vcpu, message, &a, source);
    }
}

fn hand_over(vcpu: &VcpuShared, message: &Message, a: &Addressing, source: KickSource) {
    let lapic = &vcpu.lapic;
    match message.delivery {
        delivery::FIXED | delivery::LOWEST => {
            if !a.enabled {
                return;
            }
            if message.vector < 16 {
                lapic.post_illegal();
            } else {
                lapic.post(message.vector, message.level);
            }
        }
        delivery::SMI => lapic.post_smi(),
        delivery::NMI => lapic.post_nmi(),
        delivery::INIT => lapic.post_init(),
        delivery::STARTUP => lapic.post_sipi(message.vector),
        // The 8259 pair is asked for its vector whenever interrupts can be taken.
        delivery::EXTINT => {}
        _ => return,
    }
    vcpu.event_arrived(source);
}

/// Delivers a message-signalled interrupt (SDM vol. 3, 11.11).
pub fn signal(vm: &VmShared, msi: Msi) {
    let low = (msi.address >> 12) as u32 & 0xff;
    // Bits 32 to 63 carry the destination's upper bits, as with extended destination ids.
    let id = low | (msi.address >> 32) as u32 & 0xffff_ff00;
    let logical = msi.address & 4 != 0;
    let message = Message {
        destination: if logical {
            Destination::Logical(id)
        } else if id == 0xff {
            Destination::All
        } else {
            Destination::Physical(id)
        },
        delivery: (msi.data >> 8) as u8 & 7,
        vector: msi.data as u8,
        level: msi.data & (1 << 15) != 0,
        ipi: false,
    };
    deliver(vm, None, &message);
}
