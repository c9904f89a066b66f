//! The host bridge 8086:29c0 (Intel 82Q35 memory controller hub): PCIEXBAR, PAM, SMRAM control.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use ostler_bus::{Device, InterruptLine, Range};
use ostler_pci::{ConfigSpace, Identity, PciFunction};

use super::movable::Movable;
use crate::chips::smram::Smram;
use crate::firmware::Board;
use crate::layout::ECAM_BASE;
use crate::registers::lock;

/// QEMU's register for the size of the extended top segment.
const EXTENDED_TSEG: u16 = 0x50;
const PCIEXBAR: u16 = 0x60;
const PCIEXBAR_ENABLE: u64 = 1;
const PAM: u16 = 0x90;
const PAM_REGISTERS: usize = 7;
/// Where firmware says to itself what of RAM the display and system management mode have (82Q35, 5.1.14 and 5.1.32 to 5.1.35): GGC;
/// GBSM, BGSM, TSEGMB and TOLUD. Locked by D_LCK.
const STOLEN: [(u16, usize); 2] = [(0x52, 2), (0xa4, 14)];
const SMRAM: u16 = 0x9d;
const EXTENDED_SMRAM: u16 = 0x9e;

/// The bridge. PAM switches shadow RAM where there is firmware, else nothing; SMRAM control is plain storage where there is no
/// system management mode.
pub struct HostBridge {
    config: ConfigSpace,
    ecam: Movable,
    /// Woken since the last reset.
    woken: AtomicBool,
    firmware: Option<Arc<Board>>,
    smram: Option<Mutex<Smram>>,
}

impl HostBridge {
    /// A bridge that places `ecam` by its PCIEXBAR, set up as `firmware` would unless it is there to do that itself.
    pub fn new(ecam: Movable, firmware: Option<Arc<Board>>) -> Self {
        let identity = Identity {
            vendor: 0x8086,
            device: 0x29c0,
            class: 0x06_0000,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
            ..Identity::default()
        };
        let mut builder = ConfigSpace::type0(identity);
        let enable = if firmware.is_none() { PCIEXBAR_ENABLE } else { 0 };
        builder.put_u32(PCIEXBAR, ECAM_BASE as u32 | enable as u32, 0xf000_0007);
        builder.put_u32(PCIEXBAR + 4, 0, 0xf);
        builder.put_u8(PAM, 0, 0x30);
        for register in PAM + 1..=PAM + 6 {
            builder.put_u8(register, 0, 0x33);
        }
        builder.put_u8(SMRAM, 0x02, 0x70);
        builder.put_u8(EXTENDED_SMRAM, 0x38, 0x87);
        let smm = firmware.as_ref().is_some_and(|board| board.smi().is_some());
        if smm {
            builder.put_u8(SMRAM, 0x02, 0x78);
            builder.put_u16(EXTENDED_TSEG, 0, 0xffff);
            for (register, len) in STOLEN {
                builder.put(register, &[0; 14][..len], &[0xff; 14][..len]);
            }
        }
        let bridge = Self {
            config: builder.build(),
            ecam,
            woken: AtomicBool::new(false),
            firmware,
            smram: smm.then(Mutex::default),
        };
        bridge.place_ecam();
        bridge.switch_shadow();
        bridge
    }

    /// Takes the configuration window off the bus, as the machine ends.
    pub fn detach(&self) {
        self.ecam.detach();
    }

    fn place_ecam(&self) {
        let register = u64::from(self.config.u32(PCIEXBAR)) | u64::from(self.config.u32(PCIEXBAR + 4)) << 32;
        // 256, 128 or 64 buses.
        let size = match register >> 1 & 3 {
            0 => 256 << 20,
            1 => 128 << 20,
            2 => 64 << 20,
            _ => 0,
        };
        let range = Range::new(register & 0xf_f000_0000, size);
        let place = (register & PCIEXBAR_ENABLE != 0 && size != 0).then_some(range);
        self.ecam.move_to(place);
        if let Some(firmware) = &self.firmware {
            firmware.ecam_moved(place);
        }
    }

    fn switch_shadow(&self) {
        if let Some(firmware) = &self.firmware {
            firmware.set_shadow(self.shadow());
        }
    }

    fn shadow(&self) -> [u8; PAM_REGISTERS] {
        std::array::from_fn(|number| self.config.u8(PAM + number as u16))
    }

    /// Has everything reset by `reset`, and leaves as it is what a BIOS that is woken counts on: shadow RAM, where it finds itself, and
    /// the place of extended configuration space. Through that SeaBIOS (1.14 and later) sets up the rest, and at last the place
    /// itself, which it switches off first and cannot reach any more then. So the place stays until the next reset.
    pub fn keeping_map(&self, reset: impl FnOnce()) {
        let shadow = self.shadow();
        let place = self.ecam_registers();
        reset();
        self.config.set(PAM, &shadow);
        self.switch_shadow();
        self.config.set(PCIEXBAR, &place);
        self.place_ecam();
        self.woken.store(true, Ordering::SeqCst);
    }

    fn ecam_registers(&self) -> [u8; 8] {
        let mut registers = [0; 8];
        self.config.read(PCIEXBAR, &mut registers);
        registers
    }

    /// The registers of [`STOLEN`], if they are locked.
    fn locked_registers(&self) -> Option<[[u8; 14]; 2]> {
        lock(self.smram.as_ref()?).is_locked().then(|| {
            STOLEN.map(|(register, len)| {
                let mut bytes = [0; 14];
                self.config.read(register, &mut bytes[..len]);
                bytes
            })
        })
    }

    /// Takes over what was written to the registers of system management RAM; they read as what became of it.
    fn switch_smram(&self) {
        let (Some(smram), Some(firmware)) = (&self.smram, &self.firmware) else {
            return;
        };
        let mut smram = lock(smram);
        let config = &self.config;
        smram.write(
            config.u8(SMRAM),
            config.u8(EXTENDED_SMRAM),
            config.u16(EXTENDED_TSEG),
        );
        config.set(SMRAM, &[smram.control()]);
        config.set(EXTENDED_SMRAM, &[smram.extended()]);
        config.set(EXTENDED_TSEG, &smram.size().to_le_bytes());
        firmware.set_smram(smram.visible());
    }
}

impl PciFunction for HostBridge {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn config_write(&self, offset: u16, data: &[u8]) {
        let kept = self.locked_registers();
        let place = self.ecam_registers();
        self.config.write(offset, data);
        for ((register, len), bytes) in STOLEN.into_iter().zip(kept.iter().flatten()) {
            self.config.set(register, &bytes[..len]);
        }
        if offset < PCIEXBAR + 8 && usize::from(offset) + data.len() > usize::from(PCIEXBAR) {
            if self.woken.load(Ordering::SeqCst) {
                self.config.set(PCIEXBAR, &place);
            }
            self.place_ecam();
        }
        if offset < PAM + 7 && usize::from(offset) + data.len() > usize::from(PAM) {
            self.switch_shadow();
        }
        self.switch_smram();
    }

    fn bar(&self, _: usize) -> Option<Arc<dyn Device>> {
        None
    }

    fn bar_moved(&self, _: usize, _: Option<u64>) {}

    fn connect_intx(&self, _: Arc<dyn InterruptLine>) {}

    fn reset(&self) {
        self.config.reset();
        self.woken.store(false, Ordering::SeqCst);
        if let Some(smram) = &self.smram {
            *lock(smram) = Smram::default();
        }
        self.place_ecam();
        self.switch_shadow();
        self.switch_smram();
    }
}

#[cfg(test)]
mod tests {
    use ostler_bus::AddressMap;

    use super::*;

    struct Window;

    impl Device for Window {
        fn read(&self, _: u64, data: &mut [u8]) {
            data.fill(0x55);
        }
        fn write(&self, _: u64, _: &[u8]) {}
    }

    #[test]
    fn the_place_of_extended_configuration_space_stays_from_a_wake_to_the_next_reset() {
        let map = Arc::new(AddressMap::new());
        let bridge = HostBridge::new(Movable::new(map.clone(), Arc::new(Window)), None);
        let answers = || map.read(ECAM_BASE + 0x1000, &mut [0]);
        let switch_off = || bridge.config_write(PCIEXBAR, &[0; 4]);
        assert!(answers());
        bridge.keeping_map(|| bridge.reset());
        switch_off();
        assert!(answers());
        bridge.reset();
        switch_off();
        assert!(!answers());
        // One that was off stays off.
        bridge.keeping_map(|| bridge.reset());
        assert!(!answers());
    }
}
