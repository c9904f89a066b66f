//! Which CPUs there are, and the registers by which a guest hears of those that come and lets go of those that leave: QEMU's
//! "modern" interface (QEMU, docs/specs/acpi_cpu_hotplug.rst). ACPI's methods are its only users.

use crate::registers::Masked;

/// Ports that the registers take.
pub const SIZE: u64 = 12;

/// Written: the CPU that the other registers are about. Read: the upper half of what the last command asks for, always 0.
const SELECTOR: u64 = 0;
/// Byte 0: status and control. Byte 1, written: the command.
const CONTROL: u64 = 4;
/// What the last command is about.
const DATA: u64 = 8;

const PRESENT: u32 = 1;
const INSERTING: u32 = 1 << 1;
const REMOVING: u32 = 1 << 2;
const EJECT: u32 = 1 << 3;

/// Selects the next CPU that comes or is to leave.
const NEXT_WITH_EVENT: u8 = 0;
/// What is written next is the event that the guest reports on (ACPI 6.5, 6.3.5).
const OST_EVENT: u8 = 1;
/// What is written next is what became of it.
const OST_STATUS: u8 = 2;
/// Asks for the APIC id.
const ARCHITECTURE_ID: u8 = 3;

/// What a guest says became of an event (ACPI 6.5, 6.3.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OstReport {
    /// The event: 3 is a request to let go.
    pub event: u32,
    /// What became of it: 0 is success.
    pub status: u32,
}

/// One CPU that there can be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Place {
    present: bool,
    /// It came, and the guest has not looked yet.
    inserting: bool,
    /// The guest is to let go of it, and has not looked yet.
    removing: bool,
    /// What the guest said last, until someone takes it.
    report: Option<OstReport>,
}

/// What a write did that others have to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The guest has let go of this CPU.
    Ejected(u32),
    /// It said what became of an event.
    Reported,
}

/// All CPUs that there can be, by APIC id, and the registers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuHotplug {
    places: Vec<Place>,
    selector: u32,
    command: u8,
    ost_event: u32,
}

impl CpuHotplug {
    /// `possible` CPUs, of which the first `present` are there. CPU 0 always is.
    pub fn new(possible: u32, present: u32) -> Self {
        let place = |cpu| Place {
            present: cpu == 0 || cpu < present,
            ..Place::default()
        };
        Self {
            places: (0..possible).map(place).collect(),
            selector: 0,
            command: NEXT_WITH_EVENT,
            ost_event: 0,
        }
    }

    /// For each CPU whether it is there.
    pub fn present(&self) -> Vec<bool> {
        self.places.iter().map(|place| place.present).collect()
    }

    /// True if CPU `cpu` is there.
    pub fn is_present(&self, cpu: u32) -> bool {
        self.places.get(cpu as usize).is_some_and(|place| place.present)
    }

    /// What the guest has said since the last call, by CPU: the last of each.
    pub fn take_reports(&mut self) -> Vec<(u32, OstReport)> {
        let places = (0..).zip(&mut self.places);
        let reports = places.filter_map(|(cpu, place)| Some((cpu, place.report.take()?)));
        reports.collect()
    }

    /// CPU `cpu` comes. False if it is there already, or cannot be.
    pub fn insert(&mut self, cpu: u32) -> bool {
        match self.places.get_mut(cpu as usize) {
            Some(place) if !place.present => {
                *place = Place {
                    present: true,
                    inserting: true,
                    ..Place::default()
                };
                true
            }
            _ => false,
        }
    }

    /// The guest is to let go of CPU `cpu`. False if it is not there, or is CPU 0.
    pub fn ask_to_leave(&mut self, cpu: u32) -> bool {
        match self.places.get_mut(cpu as usize) {
            Some(place) if place.present && cpu != 0 => {
                place.removing = true;
                true
            }
            _ => false,
        }
    }

    /// A guest that starts over finds the CPUs by itself, and knows nothing of what it was asked.
    pub fn reset(&mut self) {
        for place in &mut self.places {
            (place.inserting, place.removing) = (false, false);
        }
    }

    /// Reads the 32-bit register at `offset`. While the selector names no CPU, everything is 0.
    pub fn read(&self, offset: u64) -> u32 {
        let Some(place) = self.places.get(self.selector as usize) else {
            return 0;
        };
        match (offset, self.command) {
            (CONTROL, _) => {
                let flags = [
                    (place.present, PRESENT),
                    (place.inserting, INSERTING),
                    (place.removing, REMOVING),
                ];
                let set = flags.into_iter().filter(|(on, _)| *on);
                set.fold(0, |status, (_, flag)| status | flag)
            }
            (DATA, NEXT_WITH_EVENT | ARCHITECTURE_ID) => self.selector,
            _ => 0,
        }
    }

    /// Writes the 32-bit register at `offset`.
    pub fn write(&mut self, offset: u64, written: Masked) -> Option<Outcome> {
        if offset == SELECTOR {
            self.selector = written.over(self.selector);
            return None;
        }
        let cpu = self.selector;
        let place = self.places.get_mut(cpu as usize)?;
        match offset {
            CONTROL => {
                let control = written.value & 0xff;
                place.inserting &= control & INSERTING == 0;
                place.removing &= control & REMOVING == 0;
                // Nobody can do without the boot CPU.
                let ejected = control & EJECT != 0 && place.present && cpu != 0;
                if ejected {
                    *place = Place {
                        report: place.report,
                        ..Place::default()
                    };
                }
                if written.mask & 0xff00 != 0 {
                    self.set_command((written.value >> 8) as u8);
                }
                ejected.then_some(Outcome::Ejected(cpu))
            }
            DATA => match self.command {
                OST_EVENT => {
                    self.ost_event = written.value;
                    None
                }
                OST_STATUS => {
                    place.report = Some(OstReport {
                        event: self.ost_event,
                        status: written.value,
                    });
                    Some(Outcome::Reported)
                }
                _ => None,
            },
            _ => None,
        }
    }

    fn set_command(&mut self, command: u8) {
        self.command = command;
        if command == NEXT_WITH_EVENT {
            let count = self.places.len() as u32;
            let mut others = (0..count).map(|step| (self.selector + step) % count);
            let found = others.find(|cpu| {
                let place = &self.places[*cpu as usize];
                place.inserting || place.removing
            });
            self.selector = found.unwrap_or(self.selector);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn whole(value: u32) -> Masked {
        Masked {
            value,
            mask: u32::MAX,
        }
    }

    fn byte(at: u32, value: u8) -> Masked {
        Masked {
            value: u32::from(value) << (8 * at),
            mask: 0xff << (8 * at),
        }
    }

    #[test]
    fn a_cpu_that_comes_is_found_once_and_one_that_leaves_is_ejected() {
        let mut chip = CpuHotplug::new(4, 1);
        assert_eq!(chip.present(), [true, false, false, false]);
        assert!(chip.insert(2));
        assert!(!chip.insert(2) && !chip.insert(0) && !chip.insert(4));
        chip.write(SELECTOR, whole(0));
        chip.write(CONTROL, byte(1, NEXT_WITH_EVENT));
        assert_eq!(
            (chip.read(DATA), chip.read(CONTROL), chip.read(SELECTOR)),
            (2, PRESENT | INSERTING, 0)
        );
        chip.write(CONTROL, byte(0, INSERTING as u8));
        assert_eq!(chip.read(CONTROL), PRESENT);
        assert!(chip.ask_to_leave(2));
        assert!(!chip.ask_to_leave(1) && !chip.ask_to_leave(0));
        assert_eq!(chip.read(CONTROL), PRESENT | REMOVING);
        chip.write(CONTROL, byte(0, REMOVING as u8));
        let outcome = chip.write(CONTROL, byte(0, EJECT as u8));
        assert_eq!(outcome, Some(Outcome::Ejected(2)));
        assert_eq!(chip.write(CONTROL, byte(0, EJECT as u8)), None, "it is gone");
        assert!(!chip.is_present(2));
    }

    #[test]
    fn the_last_that_a_guest_says_of_each_cpu_is_kept() {
        let mut chip = CpuHotplug::new(3, 3);
        for (cpu, event, status) in [(1, 1, 0), (1, 3, 1), (2, 0x103, 0x84)] {
            chip.write(SELECTOR, whole(cpu));
            chip.write(CONTROL, byte(1, OST_EVENT));
            assert_eq!(chip.write(DATA, whole(event)), None);
            chip.write(CONTROL, byte(1, OST_STATUS));
            assert_eq!(chip.write(DATA, whole(status)), Some(Outcome::Reported));
        }
        let report = |event, status| OstReport { event, status };
        assert_eq!(chip.take_reports(), [(1, report(3, 1)), (2, report(0x103, 0x84))]);
        assert_eq!(chip.take_reports(), []);
    }

    #[test]
    fn firmware_can_count_the_cpus() {
        // As the specification describes it.
        let mut chip = CpuHotplug::new(5, 3);
        chip.write(SELECTOR, whole(0));
        chip.write(CONTROL, byte(1, NEXT_WITH_EVENT));
        let (mut present, mut possible) = (0, 0);
        loop {
            present += chip.read(CONTROL) & PRESENT;
            possible += 1;
            chip.write(SELECTOR, whole(possible));
            if chip.read(DATA) == 0 {
                break;
            }
        }
        assert_eq!((present, possible), (3, 5));
        chip.write(CONTROL, byte(0, EJECT as u8));
        assert_eq!(chip.present().len(), 5, "no CPU is selected");
    }

    proptest! {
        #[test]
        fn the_boot_cpu_stays_and_only_cpus_that_were_there_are_ejected(
            steps in proptest::collection::vec((0u64..4, any::<u32>(), any::<u32>(), 0u32..6), 0..200)
        ) {
            let mut chip = CpuHotplug::new(4, 2);
            for (register, value, mask, cpu) in steps {
                if register == 3 {
                    chip.insert(cpu);
                    chip.ask_to_leave(cpu);
                    continue;
                }
                // Small selectors, so that CPUs are met.
                let value = if register == 0 { value % 6 } else { value } & mask;
                let before = chip.present();
                match chip.write(register * 4, Masked { value, mask }) {
                    Some(Outcome::Ejected(cpu)) => {
                        prop_assert!(cpu != 0 && before[cpu as usize] && !chip.is_present(cpu));
                    }
                    Some(Outcome::Reported) => prop_assert!(chip.take_reports().len() == 1),
                    None => prop_assert_eq!(before, chip.present()),
                }
                chip.read(register * 4);
                prop_assert!(chip.is_present(0));
            }
        }
    }
}
