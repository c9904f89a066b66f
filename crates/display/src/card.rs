//! The display on the bus: the function, its BARs, and of one with VGA the old ports and the window below 1 MiB.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use ostler_bus::registers::{fill, lock, number, read_bytes, write_bytes};
use ostler_bus::{Device, InterruptLine};
use ostler_memory::RamSlot;
use ostler_pci::{BarSpec, ConfigSpace, Identity, PciFunction};

use crate::memory::{MEMORY_SIZE, VideoMemory};
use crate::registers::Vga;
use crate::screen::Screen;
use crate::vbe::Vbe;
use crate::{Error, LEGACY_PORTS, planes};

/// BARs: the frame buffer, and the registers.
const FRAME_BUFFER: usize = 0;
const REGISTERS: usize = 2;
const REGISTERS_SIZE: u64 = 4096;

/// Class codes: a VGA-compatible controller, and another display controller.
const VGA_CLASS: u32 = 0x03_0000;
const OTHER_CLASS: u32 = 0x03_8000;

/// In the registers' BAR: VGA's ports from 0x3c0 on, VBE's registers, and what QEMU has beyond.
const VGA_AT: std::ops::Range<u64> = 0x400..0x420;
const FIRST_PORT: u64 = 0x3c0;
const VBE_AT: std::ops::Range<u64> = 0x500..0x516;
const EXTENSION_AT: std::ops::Range<u64> = 0x600..0x608;
/// Bytes of the extension, and the order of the frame buffer's bytes: the lowest first.
const EXTENSION: [u8; 8] = [8, 0, 0, 0, 0x1e, 0x1e, 0x1e, 0x1e];

/// Bytes of a bank of VBE's in the window below 1 MiB.
const BANK_SIZE: u64 = 0x1_0000;

/// Where the frame buffer is mapped into the guest's memory.
pub trait FrameBufferMap: Send + Sync {
    /// The frame buffer is this memory of the guest from now on, or none.
    fn place_frame_buffer(&self, slot: Option<RamSlot>);
}

#[derive(Default)]
struct State {
    vga: Vga,
    vbe: Vbe,
}

/// What all the devices of the card work on.
struct Shared {
    vga: bool,
    state: Mutex<State>,
    memory: VideoMemory,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// The display.
pub struct Card {
    shared: Arc<Shared>,
    config: ConfigSpace,
    map: OnceLock<Arc<dyn FrameBufferMap>>,
}

impl Card {
    /// VGA with VBE's registers, in its reset state, with memory full of zeroes.
    pub fn new() -> Result<Arc<Self>, Error> {
        Self::with_class(VGA_CLASS)
    }

    /// A plain frame buffer, dark until a mode is set by VBE's registers, which are in BAR 2 (QEMU's bochs-display): no VGA, no
    /// old ports, no window.
    pub fn plain() -> Result<Arc<Self>, Error> {
        Self::with_class(OTHER_CLASS)
    }

    fn with_class(class: u32) -> Result<Arc<Self>, Error> {
        let identity = Identity {
            vendor: 0x1234,
            device: 0x1111,
            revision: 2,
            class,
            subsystem_vendor: 0x1af4,
            subsystem: 0x1100,
        };
        let mut builder = ConfigSpace::type0(identity);
        builder.bar(FRAME_BUFFER, BarSpec::memory32(MEMORY_SIZE));
        builder.bar(REGISTERS, BarSpec::memory32(REGISTERS_SIZE));
        let shared = Shared {
            vga: class == VGA_CLASS,
            state: Mutex::default(),
            memory: VideoMemory::new()?,
        };
        Ok(Arc::new(Self {
            shared: Arc::new(shared),
            config: builder.build(),
            map: OnceLock::new(),
        }))
    }

    /// True if there is VGA, with its ports and its window.
    pub fn is_vga(&self) -> bool {
        self.shared.vga
    }

    /// Says who maps the frame buffer; once, before the card is on a bus.
    pub fn connect(&self, map: Arc<dyn FrameBufferMap>) {
        let _ = self.map.set(map);
    }

    /// What is on the screen now.
    pub fn screen(&self) -> Screen {
        let state = self.shared.lock();
        let screen = if self.is_vga() { Screen::new } else { Screen::plain };
        screen(&state.vga, &state.vbe, &self.shared.memory)
    }

    /// VGA's ports, for [`LEGACY_PORTS`].
    pub fn legacy_ports(&self) -> Arc<dyn Device> {
        Arc::new(LegacyPorts(self.shared.clone()))
    }

    /// VBE's ports, for [`crate::VBE_PORTS`].
    pub fn vbe_ports(&self) -> Arc<dyn Device> {
        Arc::new(VbePorts(self.shared.clone()))
    }

    /// Display memory below 1 MiB, for [`crate::LEGACY_WINDOW`].
    pub fn legacy_window(&self) -> Arc<dyn Device> {
        Arc::new(LegacyWindow(self.shared.clone()))
    }
}

impl PciFunction for Card {
    fn config(&self) -> &ConfigSpace {
        &self.config
    }

    fn bar(&self, index: usize) -> Option<Arc<dyn Device>> {
        match index {
            FRAME_BUFFER => Some(Arc::new(FrameBuffer(self.shared.memory.clone()))),
            REGISTERS => Some(Arc::new(Registers(self.shared.clone()))),
            _ => None,
        }
    }

    fn bar_moved(&self, index: usize, base: Option<u64>) {
        if let (FRAME_BUFFER, Some(map)) = (index, self.map.get()) {
            map.place_frame_buffer(base.map(|gpa| self.shared.memory.slot(gpa)));
        }
    }

    fn connect_intx(&self, _: Arc<dyn InterruptLine>) {}

    /// The registers; memory stays as it is.
    fn reset(&self) {
        self.config.reset();
        *self.shared.lock() = State::default();
    }
}

struct LegacyPorts(Arc<Shared>);

impl Device for LegacyPorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let mut state = self.0.lock();
        read_bytes(offset, data, |at| state.vga.read_port((LEGACY_PORTS + at) as u16));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let mut state = self.0.lock();
        write_bytes(offset, data, |at, value| {
            state.vga.write_port((LEGACY_PORTS + at) as u16, value);
        });
    }
}

/// The index, and from the next port on 16 bits of data. Firmware for other buses has the data one port further.
struct VbePorts(Arc<Shared>);

impl Device for VbePorts {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let state = self.0.lock();
        let value = match offset {
            0 => state.vbe.index(),
            _ => state.vbe.read(state.vbe.index()),
        };
        fill(data, value.into());
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let value = number(data) as u16;
        let State { vbe, .. } = &mut *self.0.lock();
        match offset {
            0 => vbe.set_index(value),
            _ => vbe.write(vbe.index(), value, &self.0.memory),
        }
    }
}

struct LegacyWindow(Arc<Shared>);

impl Device for LegacyWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let State { vga, vbe } = &mut *self.0.lock();
        let memory = &self.0.memory;
        read_bytes(offset, data, |at| match vbe.window() {
            Some(_) if at >= BANK_SIZE => 0xff,
            Some(bank) => memory.byte((bank + at) as u32),
            None => planes::read(vga, memory, at as u32),
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let State { vga, vbe } = &mut *self.0.lock();
        let memory = &self.0.memory;
        write_bytes(offset, data, |at, value| match vbe.window() {
            Some(_) if at >= BANK_SIZE => {}
            Some(bank) => memory.write(bank + at, &[value]),
            None => planes::write(vga, memory, at as u32, value),
        });
    }
}

/// The frame buffer where the accelerator does not map it.
struct FrameBuffer(VideoMemory);

impl Device for FrameBuffer {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.write(offset, data);
    }
}

/// The registers' BAR.
struct Registers(Arc<Shared>);

impl Device for Registers {
    fn read(&self, offset: u64, data: &mut [u8]) {
        let State { vga, vbe } = &mut *self.0.lock();
        read_bytes(offset, data, |at| {
            if self.0.vga && VGA_AT.contains(&at) {
                vga.read_port((FIRST_PORT + at - VGA_AT.start) as u16)
            } else if VBE_AT.contains(&at) {
                vbe.read(((at - VBE_AT.start) / 2) as u16).to_le_bytes()[(at & 1) as usize]
            } else if EXTENSION_AT.contains(&at) {
                EXTENSION[(at - EXTENSION_AT.start) as usize]
            } else {
                0
            }
        });
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let State { vga, vbe } = &mut *self.0.lock();
        if VBE_AT.contains(&offset) {
            // A register has 16 bits; half of one changes that half.
            let index = ((offset - VBE_AT.start) / 2) as u16;
            let old = vbe.read(index);
            let value = match (data, offset & 1) {
                ([low], 0) => old & 0xff00 | u16::from(*low),
                ([high], _) => old & 0x00ff | u16::from(*high) << 8,
                _ => number(data) as u16,
            };
            vbe.write(index, value, &self.0.memory);
            return;
        }
        write_bytes(offset, data, |at, value| {
            if self.0.vga && VGA_AT.contains(&at) {
                vga.write_port((FIRST_PORT + at - VGA_AT.start) as u16, value);
            }
        });
    }
}
