//! The real-time clock on the bus: ports 0x70 and 0x71, IRQ 8.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

use ostler_bus::{Device, InterruptLine};
use ostler_memory::{GuestRam, boot_regions};
use vm_memory::GuestMemoryRegion;

use super::rtc::{Rtc, RtcTime};
use crate::boot::memory_map::low_ram_end;
use crate::registers::{lock, read_bytes, write_bytes};
use crate::timers::{Clock, TimerClient, TimerId, Timers};

/// The clock with its interrupt.
pub struct RtcBus {
    rtc: Mutex<Rtc>,
    /// Seconds by which it was ahead of the host at the start.
    start: i64,
    listener: OnceLock<Box<dyn Fn() + Send + Sync>>,
    line: Arc<dyn InterruptLine>,
    /// Where the alarm alone goes, when its level changes.
    alarm: (Arc<dyn InterruptLine>, AtomicBool),
    clock: Clock,
    timers: Timers,
    timer: TimerId,
}

/// What firmware is told by the clock's memory.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// End of the RAM that starts at address 0.
    low: u64,
    /// Bytes of RAM above 4 GiB.
    high: u64,
    cpus: u32,
}

impl Sizes {
    /// Those of `ram`, of `more` bytes right above its low part, and the number of CPUs.
    pub fn of(ram: &GuestRam, more: u64, cpus: u32) -> Self {
        let high = boot_regions(ram).filter(|region| region.start_addr().0 != 0);
        Self {
            low: low_ram_end(ram) + more,
            high: high.map(|region| region.len()).sum(),
            cpus,
        }
    }
}

impl RtcBus {
    /// A clock that is `ahead` seconds ahead of host time, with `sizes` in its memory, and with `firmware` what that looks for there. It interrupts by
    /// `line`; the alarm alone is `alarm`.
    pub fn new(
        (line, alarm): (Arc<dyn InterruptLine>, Arc<dyn InterruptLine>),
        clock: Clock,
        timers: Timers,
        ahead: i64,
        sizes: Sizes,
        firmware: bool,
    ) -> Arc<Self> {
        let mut rtc = Rtc::new(clock.wall(), ahead);
        describe_memory(&mut rtc, sizes);
        for (index, value) in BOOT_ORDER.into_iter().filter(|_| firmware) {
            rtc.set_memory(index, value);
        }
        Arc::new_cyclic(|me: &Weak<Self>| {
            let timer = timers.register(me.clone());
            Self {
                rtc: Mutex::new(rtc),
                start: ahead,
                listener: OnceLock::new(),
                line,
                alarm: (alarm, AtomicBool::new(false)),
                clock,
                timers,
                timer,
            }
        })
    }

    /// A reset stops the interrupts; time and memory are kept by the battery.
    pub fn reset(&self) {
        self.access(|rtc, now| {
            rtc.write(0, 0x0b, now);
            let b = rtc.read(1, now);
            rtc.write(1, b & 0x07, now);
        });
    }

    /// Tells firmware, when it starts next, that the machine comes out of a sleep: QEMU's sign.
    pub fn note_sleep(&self) {
        self.access(|rtc, _| rtc.set_memory(SHUTDOWN_STATUS, WOKEN));
    }

    /// From now on there are so many CPUs.
    pub fn set_cpus(&self, cpus: u32) {
        self.access(|rtc, _| rtc.set_memory(CPUS, cpus.saturating_sub(1) as u8));
    }

    /// Calls `listener` from now on when the guest has set the time. A second call changes nothing.
    pub fn listen(&self, listener: impl Fn() + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
    }

    /// Seconds by which the guest has set it forward since the start.
    pub fn moved(&self) -> i64 {
        lock(&self.rtc).offset().saturating_sub(self.start)
    }

    /// What it shows.
    pub fn time(&self) -> RtcTime {
        let rtc = lock(&self.rtc);
        rtc.time(self.clock.wall())
    }

    fn access<R>(&self, access: impl FnOnce(&mut Rtc, u64) -> R) -> R {
        let mut rtc = lock(&self.rtc);
        let now = self.clock.wall();
        let before = rtc.offset();
        let result = access(&mut rtc, now);
        self.line.set(rtc.interrupt());
        let (alarm, level) = &self.alarm;
        if level.swap(rtc.alarm(), Ordering::Relaxed) != rtc.alarm() {
            alarm.set(rtc.alarm());
        }
        let deadline = rtc
            .deadline(now)
            .map(|at| self.clock.now().saturating_add(at.saturating_sub(now)));
        self.timers.set(self.timer, deadline);
        let is_set = rtc.offset() != before;
        drop(rtc);
        if let Some(listener) = self.listener.get().filter(|_| is_set) {
            listener();
        }
        result
    }
}

/// The order of what to boot from, where a BIOS keeps it: hard disk, optical disk, network, and no check of floppy disks.
const BOOT_ORDER: [(usize, u8); 2] = [(0x3d, 0x32), (0x38, 0x41)];

/// What firmware finds at its start: why the CPU was reset.
const SHUTDOWN_STATUS: usize = 0x0f;
const WOKEN: u8 = 0xfe;

/// Where the number of CPUs is, less one.
const CPUS: usize = 0x5f;

/// Memory sizes where PC firmware keeps them, and the number of CPUs where QEMU's does.
fn describe_memory(rtc: &mut Rtc, Sizes { low, high, cpus }: Sizes) {
    let mut word = |index: usize, value: u64| {
        let value = value.min(0xffff) as u16;
        rtc.set_memory(index, value as u8);
        rtc.set_memory(index + 1, (value >> 8) as u8);
    };
    let above_megabyte = low.saturating_sub(1 << 20) >> 10;
    word(0x15, 640);
    word(0x17, above_megabyte);
    word(0x30, above_megabyte);
    word(0x34, low.saturating_sub(16 << 20) >> 16);
    let high_chunks = high >> 16;
    for (index, shift) in [(0x5b, 0), (0x5c, 8), (0x5d, 16)] {
        rtc.set_memory(index, (high_chunks >> shift) as u8);
    }
    rtc.set_memory(CPUS, cpus.saturating_sub(1) as u8);
    // Equipment: a coprocessor, no floppy disk.
    rtc.set_memory(0x14, 0x02);
}

impl TimerClient for RtcBus {
    fn expired(&self) {
        self.access(|rtc, now| rtc.account(now));
    }
}

impl Device for RtcBus {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.access(|rtc, now| read_bytes(offset, data, |port| rtc.read(port & 1, now)));
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.access(|rtc, now| write_bytes(offset, data, |port, value| rtc.write(port & 1, value, now)));
    }
}
