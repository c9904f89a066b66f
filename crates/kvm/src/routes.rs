//! GSI routes: the message that each of KVM's interrupt inputs sends.
//!
//! GSIs 0 to 23 mirror the pins of our IOAPIC, and only the level-triggered ones: nobody raises them, but KVM looks at
//! their vectors and destinations to know which ends of interrupts have to leave for user mode. A guest may give a pin another
//! destination before it ends the interrupt that the pin sent: GSIs 24 to 47 keep what such a pin was. GSIs from 48 on belong to
//! irqfds, of messages and of Hyper-V's synthetic interrupts.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::{Mutex, PoisonError};

use kvm_bindings::{
    KVM_IRQ_ROUTING_HV_SINT, KVM_IRQ_ROUTING_MSI, KVM_MAX_IRQ_ROUTES, KvmIrqRouting, kvm_irq_routing_entry,
    kvm_irq_routing_hv_sint, kvm_irq_routing_msi, kvm_msi,
};
use kvm_ioctls::VmFd;
use ostler_accel::{IoapicPin, SyntheticSource};
use ostler_bus::Msi;
use vmm_sys_util::eventfd::EventFd;

/// Pins of the IOAPIC.
const IOAPIC_PINS: u32 = 24;

/// GSIs that KVM takes for pins of an IOAPIC in user mode: what they are, and what they were. The first GSI that an irqfd may use.
pub const MIRRORED_PINS: u32 = 2 * IOAPIC_PINS;

/// Bit 15 of a message's data: level-triggered (SDM vol. 3, 11.11.2).
const MSI_LEVEL_TRIGGERED: u32 = 1 << 15;

/// The routes of one VM.
#[derive(Default)]
pub struct Routes {
    table: Mutex<Table>,
}

/// What KVM was last told, by GSI; plain data, so that its rules are testable without KVM.
#[derive(Debug, Default, Clone, PartialEq)]
struct Table {
    pins: BTreeMap<u32, Msi>,
    /// What pins were when they sent what has not ended yet, by the GSI that keeps it.
    former: BTreeMap<u32, Msi>,
    events: BTreeMap<RawFd, EventRoute>,
    synthetic: BTreeMap<SyntheticSource, u32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct EventRoute {
    gsi: u32,
    msi: Msi,
}

impl Table {
    /// Takes over the pins; false if nothing changed for KVM.
    fn set_pins(&mut self, pins: &[IoapicPin]) -> bool {
        let level: BTreeMap<u32, Msi> = (0..IOAPIC_PINS)
            .zip(pins)
            .filter(|(_, pin)| pin.msi.data & MSI_LEVEL_TRIGGERED != 0 && is_deliverable(pin.msi))
            .map(|(gsi, pin)| (gsi, pin.msi))
            .collect();
        let mut former = BTreeMap::new();
        for (gsi, _) in (0..IOAPIC_PINS).zip(pins).filter(|(_, pin)| pin.in_service) {
            let kept = gsi + IOAPIC_PINS;
            let was = self.pins.get(&gsi).filter(|was| level.get(&gsi) != Some(*was));
            if let Some(msi) = self.former.get(&kept).or(was) {
                former.insert(kept, *msi);
            }
        }
        let changed = (&level, &former) != (&self.pins, &self.former);
        (self.pins, self.former) = (level, former);
        changed
    }

    /// A CPU ended `vector`. KVM hears of it with the next change: until then it only leaves guest mode for nothing.
    fn end_of_interrupt(&mut self, vector: u8) {
        self.former.retain(|_, msi| msi.data as u8 != vector);
    }

    /// Gives the event `fd` the message `msi`, and returns its GSI; `None` if every GSI is taken.
    fn set_event(&mut self, fd: RawFd, msi: Msi) -> Option<u32> {
        if let Some(route) = self.events.get_mut(&fd) {
            route.msi = msi;
            return Some(route.gsi);
        }
        let gsi = self.free()?;
        self.events.insert(fd, EventRoute { gsi, msi });
        Some(gsi)
    }

    /// Gives `source` a GSI; `None` if every GSI is taken.
    fn set_synthetic(&mut self, source: SyntheticSource) -> Option<u32> {
        if let Some(&gsi) = self.synthetic.get(&source) {
            return Some(gsi);
        }
        let gsi = self.free()?;
        self.synthetic.insert(source, gsi);
        Some(gsi)
    }

    /// A GSI that nobody has.
    fn free(&self) -> Option<u32> {
        let is_taken = |gsi: u32| {
            self.events.values().any(|route| route.gsi == gsi)
                || self.synthetic.values().any(|&taken| taken == gsi)
        };
        (MIRRORED_PINS..KVM_MAX_IRQ_ROUTES as u32).find(|&gsi| !is_taken(gsi))
    }

    fn entries(&self) -> Vec<kvm_irq_routing_entry> {
        let events = self.events.values().filter(|route| is_deliverable(route.msi));
        let pins = self.pins.iter().chain(&self.former);
        let pins = pins.map(|(gsi, msi)| entry(*gsi, *msi));
        let synthetic = self.synthetic.iter();
        pins.chain(events.map(|route| entry(route.gsi, route.msi)))
            .chain(synthetic.map(|(source, gsi)| synthetic_entry(*gsi, *source)))
            .collect()
    }
}

/// True for a message to the LAPICs. KVM refuses a whole table for one bad address, and a guest can write any.
fn is_deliverable(msi: Msi) -> bool {
    msi.address as u32 & 0xfff0_0000 == 0xfee0_0000 && (msi.address >> 32) & 0xff == 0
}

fn entry(gsi: u32, msi: Msi) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_MSI,
        ..Default::default()
    };
    entry.u.msi = kvm_irq_routing_msi {
        address_lo: msi.address as u32,
        address_hi: (msi.address >> 32) as u32,
        data: msi.data,
        ..Default::default()
    };
    entry
}

fn synthetic_entry(gsi: u32, source: SyntheticSource) -> kvm_irq_routing_entry {
    let mut entry = kvm_irq_routing_entry {
        gsi,
        type_: KVM_IRQ_ROUTING_HV_SINT,
        ..Default::default()
    };
    entry.u.hv_sint = kvm_irq_routing_hv_sint {
        vcpu: source.vcpu,
        sint: source.sint.into(),
    };
    entry
}

impl Routes {
    /// Mirrors the IOAPIC's pins.
    pub fn set_pins(&self, vm: &VmFd, pins: &[IoapicPin]) -> io::Result<()> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.set_pins(pins) {
            install(vm, &table)
        } else {
            Ok(())
        }
    }

    /// A CPU ended the interrupt with `vector`.
    pub fn end_of_interrupt(&self, vector: u8) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.end_of_interrupt(vector);
    }

    /// Connects `event` to `msi`, or disconnects it.
    pub fn connect(&self, vm: &VmFd, event: &EventFd, msi: Option<Msi>) -> io::Result<()> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let fd = event.as_raw_fd();
        let before = table.clone();
        let Some(msi) = msi else {
            let Some(route) = table.events.remove(&fd) else {
                return Ok(());
            };
            vm.unregister_irqfd(event, route.gsi)?;
            return install(vm, &table);
        };
        let gsi = table.set_event(fd, msi).ok_or(io::ErrorKind::QuotaExceeded)?;
        if *table != before
            && let Err(error) = install(vm, &table)
        {
            *table = before;
            return Err(error);
        }
        // KVM drops an irqfd when its event is closed, and the number may come back for another event: always ask.
        match vm.register_irqfd(event, gsi) {
            Ok(()) => Ok(()),
            Err(error) if error.errno() == libc::EBUSY && before.events.contains_key(&fd) => Ok(()),
            Err(error) => {
                table.events.remove(&fd);
                Err(error.into())
            }
        }
    }

    /// Connects `event` to a source of synthetic interrupts.
    pub fn connect_synthetic(&self, vm: &VmFd, event: &EventFd, source: SyntheticSource) -> io::Result<()> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let gsi = table.set_synthetic(source).ok_or(io::ErrorKind::QuotaExceeded)?;
        let connected = install(vm, &table).and_then(|()| Ok(vm.register_irqfd(event, gsi)?));
        if connected.is_err() {
            table.synthetic.remove(&source);
        }
        connected
    }

    /// Ends what [`Routes::connect_synthetic`] began.
    pub fn disconnect_synthetic(
        &self,
        vm: &VmFd,
        event: &EventFd,
        source: SyntheticSource,
    ) -> io::Result<()> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(gsi) = table.synthetic.remove(&source) else {
            return Ok(());
        };
        vm.unregister_irqfd(event, gsi)?;
        install(vm, &table)
    }
}

fn install(vm: &VmFd, table: &Table) -> io::Result<()> {
    let routing = KvmIrqRouting::from_entries(&table.entries())
        .map_err(|_| io::Error::from(io::ErrorKind::QuotaExceeded))?;
    Ok(vm.set_gsi_routing(&routing)?)
}

/// Sends `msi` at once. A message that reaches no CPU is dropped, as on the bus.
pub fn signal(vm: &VmFd, msi: Msi) {
    if !is_deliverable(msi) {
        return;
    }
    let message = kvm_msi {
        address_lo: msi.address as u32,
        address_hi: (msi.address >> 32) as u32,
        data: msi.data,
        ..Default::default()
    };
    // The result says how many LAPICs took it, or that none did: neither is an error of ours.
    if let Err(error) = vm.signal_msi(message) {
        tracing::debug!(?msi, %error, "no CPU took a message-signalled interrupt");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAPIC: u64 = 0xfee0_0000;

    fn pin(data: u32) -> IoapicPin {
        IoapicPin {
            msi: Msi { address: LAPIC, data },
            masked: false,
            in_service: false,
        }
    }

    #[test]
    fn only_level_triggered_pins_are_mirrored_and_masking_changes_nothing() {
        let mut table = Table::default();
        let mut pins = vec![pin(0x30); IOAPIC_PINS as usize];
        assert!(!table.set_pins(&pins), "edge-triggered pins need no exit");
        pins[9] = pin(0x8039);
        assert!(table.set_pins(&pins));
        pins[9].masked = true;
        assert!(!table.set_pins(&pins));
        assert_eq!(table.entries().len(), 1);
        assert_eq!(table.entries()[0].gsi, 9);
    }

    /// A guest moves a pin to another CPU in the very handler of its interrupt, as kvm-unit-tests' `ioapic` does.
    #[test]
    fn a_pin_that_is_changed_before_its_interrupt_ended_is_known_as_it_was() {
        let moved = |data: u32, destination: u64, in_service: bool| IoapicPin {
            msi: Msi {
                address: LAPIC | destination << 12,
                data,
            },
            masked: false,
            in_service,
        };
        let mut table = Table::default();
        let mut pins = vec![pin(0x30); IOAPIC_PINS as usize];
        let mut set = |table: &mut Table, what: IoapicPin| {
            pins[13] = what;
            let changed = table.set_pins(&pins);
            let routes = table.entries();
            // SAFETY: all entries are messages.
            let address = |entry: &kvm_irq_routing_entry| unsafe { entry.u.msi.address_lo };
            let routes: Vec<_> = routes.iter().map(|entry| (entry.gsi, address(entry))).collect();
            (changed, routes)
        };
        let first = (13, 0xfee0_0000);
        assert_eq!(set(&mut table, moved(0x8064, 0, false)), (true, vec![first]));
        let both = vec![(13, 0xfee0_1000), (37, 0xfee0_0000)];
        assert_eq!(set(&mut table, moved(0x8064, 1, true)), (true, both.clone()));
        assert_eq!(set(&mut table, moved(0x8064, 1, true)), (false, both));
        let third = vec![(13, 0xfee0_2000), (37, 0xfee0_0000)];
        assert_eq!(set(&mut table, moved(0x8064, 2, true)), (true, third));
        table.end_of_interrupt(0x63);
        assert_eq!(table.entries().len(), 2, "another vector");
        table.end_of_interrupt(0x64);
        let next = vec![(13, 0xfee0_3000), (37, 0xfee0_2000)];
        assert_eq!(set(&mut table, moved(0x8064, 3, true)), (true, next));
        assert_eq!(
            set(&mut table, moved(0x8064, 3, false)),
            (true, vec![(13, 0xfee0_3000)])
        );
    }

    #[test]
    fn an_event_keeps_its_gsi_and_a_bad_message_spoils_no_other() {
        let mut table = Table::default();
        let good = Msi {
            address: LAPIC,
            data: 0x41,
        };
        assert_eq!(table.set_event(5, good), Some(48));
        assert_eq!(
            table.set_event(
                6,
                Msi {
                    address: 0x1234,
                    data: 1
                }
            ),
            Some(49)
        );
        assert_eq!(
            table.set_event(
                7,
                Msi {
                    address: LAPIC | 1 << 32,
                    data: 1
                }
            ),
            Some(50)
        );
        assert_eq!(table.set_event(5, Msi { data: 0x42, ..good }), Some(48));
        let entries = table.entries();
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].gsi, entries[0].type_), (48, KVM_IRQ_ROUTING_MSI));
        table.events.remove(&6);
        assert_eq!(table.set_event(8, good), Some(49), "a free GSI is used again");
    }

    #[test]
    fn synthetic_interrupts_have_gsis_of_their_own() {
        let mut table = Table::default();
        let msi = Msi {
            address: LAPIC,
            data: 0x41,
        };
        let source = SyntheticSource { vcpu: 3, sint: 9 };
        assert_eq!(table.set_event(5, msi), Some(48));
        assert_eq!(table.set_synthetic(source), Some(49));
        assert_eq!(table.set_synthetic(source), Some(49), "one is enough");
        assert_eq!(table.set_event(6, msi), Some(50));
        let entries = table.entries();
        let entry = entries.iter().find(|entry| entry.gsi == 49).unwrap();
        assert_eq!((entries.len(), entry.type_), (3, KVM_IRQ_ROUTING_HV_SINT));
        // SAFETY: its type says that it is one of these.
        let to = unsafe { entry.u.hv_sint };
        assert_eq!((to.vcpu, to.sint), (3, 9));
    }

    #[test]
    fn gsis_run_out_without_harm() {
        let mut table = Table::default();
        for fd in 0..(KVM_MAX_IRQ_ROUTES as RawFd - MIRRORED_PINS as RawFd) {
            // Filled by hand: looking for a free GSI 4,000 times is quadratic.
            table.events.insert(
                fd,
                EventRoute {
                    gsi: MIRRORED_PINS + fd as u32,
                    msi: Msi::default(),
                },
            );
        }
        assert_eq!(table.set_event(9999, Msi::default()), None);
    }
}
