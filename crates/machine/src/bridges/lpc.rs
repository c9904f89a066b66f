//! The LPC bridge 8086:2918 (ICH9): PMBASE, ACPI control, PIRQ routing.

use std::sync::Arc;

use ostler_bus::{Device, InterruptLine, Range};
use ostler_pci::{ConfigSpace, Identity, PciFunction};

use super::movable::Movable;
use crate::chips::pm;
use crate::chips::pm_bus::PmBus;
use crate::interrupts::{PIRQS, Router};
use crate::layout::PM_BASE;

const PMBASE: u16 = 0x40;
const ACPI_CONTROL: u16 = 0x44;
const ACPI_ENABLE: u8 = 0x80;
const PIRQ_A_TO_D: u16 = 0x60;
const PIRQ_E_TO_H: u16 = 0x68;
const PIRQ_OFF: u8 = 0x80;
/// GEN_PMCON_1 (ICH9 13.8.1.1).
const POWER_CONTROL: u16 = 0xa0;
const SMI_LOCK: u8 = 1 << 4;
const ROOT_COMPLEX_BASE: u16 = 0xf0;

/// ISA interrupts that PIRQA to PIRQH use without an IOAPIC, as PC firmware routes them.
pub const PIRQ_ISA: [u8; PIRQS] = [10, 10, 11, 11, 10, 10, 11, 11];

/// The bridge.
pub struct LpcBridge {
    config: ConfigSpace,
    router: Arc<Router>,
    pm: Movable,
    chip: Arc<PmBus>,
}

impl LpcBridge {
    /// A bridge that routes PIRQs and places `pm`, which is `chip`, set up as firmware would unless there is some to do it
    /// (`firmware`). With `smm` it can lock the chip's system management interrupts.
    pub fn new(
        router: Arc<Router>,
        (pm, chip): (Movable, Arc<PmBus>),
        (firmware, smm): (bool, bool),
    ) -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x2918,
            revision: 2,
            class: 0x06_0100,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        };
        let mut builder = ConfigSpace::type0(identity);
        builder.multifunction();
        let (base, control) = if firmware { (0, 0) } else { (PM_BASE, ACPI_ENABLE) };
        builder.put_u32(PMBASE, base as u32 | 1, 0xff80);
        builder.put_u8(ACPI_CONTROL, control, 0x87);
        for (n, isa) in (0..).zip(PIRQ_ISA) {
            builder.put_u8(pirq_register(n), if firmware { PIRQ_OFF } else { isa }, 0x8f);
        }
        builder.put_u32(ROOT_COMPLEX_BASE, 0, 0xffff_c001);
        if smm {
            builder.put_u8(POWER_CONTROL, 0, SMI_LOCK);
        }
        let bridge = Self {
            config: builder.build(),
            router,
            pm,
            chip,
        };
        bridge.apply();
        bridge
    }

    fn apply(&self) {
        let base = u64::from(self.config.u32(PMBASE) & 0xff80);
        let on = self.config.u8(ACPI_CONTROL) & ACPI_ENABLE != 0 && base != 0;
        self.pm.move_to(on.then_some(Range::new(base, pm::SIZE)));
        for n in 0..PIRQS {
            let route = self.config.u8(pirq_register(n));
            self.router
                .route_pirq(n, (route & PIRQ_OFF == 0).then_some(route & 0xf));
        }
    }
}

fn pirq_register(n: usize) -> u16 {
    let n = n as u16;
    if n < 4 {
        PIRQ_A_TO_D + n
    } else {
        PIRQ_E_TO_H + n - 4
    }
}

impl PciFunction for LpcBridge {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let locked = self.config.u8(POWER_CONTROL) & SMI_LOCK;
        self.config.write(offset, data);
        let power = self.config.u8(POWER_CONTROL) | locked;
        self.config.set(POWER_CONTROL, &[power]);
        if power & SMI_LOCK != 0 {
            self.chip.lock_smi();
        }
        self.apply();
    }

    fn bar(&self, _: usize) -> Option<Arc<dyn Device>> {
        None
    }

    fn bar_moved(&self, _: usize, _: Option<u64>) {}

    fn connect_intx(&self, _: Arc<dyn InterruptLine>) {}

    fn reset(&self) {
        self.config.reset();
        self.apply();
    }
}
