//! The LAPIC as a pure state machine: it knows no thread, no memory and no clock but what it is given.

use ostler_accel::LapicState;

use super::route::{Destination, Message, delivery};
use super::shared::{Addressing, LapicShared, Posted};
use super::timer::{Mode, Timer};
use super::{BASE_ENABLE, BASE_X2APIC, register};

/// Version 0x14, seven LVT entries less one.
const VERSION: u32 = 0x0005_0014;
/// An LVT entry is masked.
const MASKED: u32 = 1 << 16;
/// SVR: software enable.
const ENABLED: u32 = 1 << 8;
/// ESR: an illegal vector was sent.
const SEND_ILLEGAL: u32 = 1 << 5;
/// ESR: an illegal vector was received.
const RECEIVE_ILLEGAL: u32 = 1 << 6;
/// ESR: an illegal register was touched.
const ILLEGAL_REGISTER: u32 = 1 << 7;

/// A set of 256 vectors.
type Vectors = [u64; 4];

fn highest(set: &Vectors) -> Option<u8> {
    (0..4)
        .rev()
        .find(|&w| set[w] != 0)
        .map(|w| (w as u32 * 64 + 63 - set[w].leading_zeros()) as u8)
}

fn insert(set: &mut Vectors, vector: u8) {
    set[usize::from(vector / 64)] |= 1 << (vector % 64);
}

fn remove(set: &mut Vectors, vector: u8) {
    set[usize::from(vector / 64)] &= !(1 << (vector % 64));
}

fn contains(set: &Vectors, vector: u8) -> bool {
    set[usize::from(vector / 64)] >> (vector % 64) & 1 != 0
}

/// One of the eight 32-bit registers that show a set.
fn word(set: &Vectors, n: u32) -> u32 {
    (set[(n / 2) as usize] >> (32 * (n % 2))) as u32
}

/// What the owner has to do after a register write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Nothing.
    None,
    /// The interrupt `vector` ended.
    Ended {
        /// Its vector.
        vector: u8,
        /// It was level triggered: the IOAPIC has to hear of it.
        level: bool,
    },
    /// An interrupt message is to be sent.
    Send(Message),
}

/// A LAPIC: the part that only its vCPU's thread touches.
#[derive(Debug, Clone)]
pub struct Lapic {
    /// IA32_APIC_BASE.
    pub base: u64,
    id: u32,
    tpr: u8,
    xapic_id: u8,
    ldr: u32,
    dfr: u32,
    svr: u32,
    in_service: Vectors,
    requested: Vectors,
    level: Vectors,
    /// What reads of ESR show.
    esr: u32,
    /// Errors since ESR was last written.
    errors: u32,
    icr: u64,
    /// Timer, thermal, performance, LINT0, LINT1, error.
    lvt: [u32; 6],
    timer: Timer,
    /// A vector that was taken but could not be delivered yet, because the way led to a device.
    pub in_flight: Option<u8>,
    /// A paravirtual kick came before the HLT it is for.
    pub unhalted: bool,
}

impl Default for Lapic {
    /// The boot processor's, with a TSC of 1 GHz; [`Lapic::configure`] tells it better.
    fn default() -> Self {
        Self::new(0, 1_000_000)
    }
}

impl Lapic {
    /// The LAPIC of vCPU `id` after RESET; the TSC runs at `tsc_khz`.
    pub fn new(id: u32, tsc_khz: u64) -> Self {
        let bsp = if id == 0 { super::BASE_BSP } else { 0 };
        let mut lapic = Self {
            base: 0xfee0_0000 | BASE_ENABLE | bsp,
            id,
            tpr: 0,
            xapic_id: id as u8,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            in_service: [0; 4],
            requested: [0; 4],
            level: [0; 4],
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [MASKED; 6],
            timer: Timer::new(tsc_khz),
            in_flight: None,
            unhalted: false,
        };
        lapic.reset();
        lapic
    }

    /// Sets the id and the frequency of the TSC.
    pub fn configure(&mut self, id: u32, tsc_khz: u64) {
        self.id = id;
        self.timer.set_frequency(tsc_khz);
    }

    /// Everything but IA32_APIC_BASE and the id, as after INIT.
    pub fn reset(&mut self) {
        let timer = Timer::new_like(&self.timer);
        *self = Self {
            base: self.base,
            id: self.id,
            tpr: 0,
            xapic_id: self.id as u8,
            ldr: 0,
            dfr: u32::MAX,
            svr: 0xff,
            in_service: [0; 4],
            requested: [0; 4],
            level: [0; 4],
            esr: 0,
            errors: 0,
            icr: 0,
            lvt: [MASKED; 6],
            timer,
            in_flight: None,
            unhalted: false,
        };
        self.derive_ldr();
    }

    fn derive_ldr(&mut self) {
        if self.is_x2apic() {
            self.ldr = self.id >> 4 << 16 | 1 << (self.id & 0xf);
        }
    }

    /// IA32_APIC_BASE.
    pub fn base(&self) -> u64 {
        self.base
    }

    /// Sets IA32_APIC_BASE; the caller has checked the change. Turning the LAPIC off resets it.
    pub fn set_base(&mut self, base: u64) {
        let was_x2apic = self.is_x2apic();
        self.base = base;
        if base & BASE_ENABLE == 0 {
            self.reset();
        } else if self.is_x2apic() && !was_x2apic {
            self.derive_ldr();
        }
    }

    /// True in x2APIC mode.
    pub fn is_x2apic(&self) -> bool {
        self.base & BASE_X2APIC != 0
    }

    fn hardware_enabled(&self) -> bool {
        self.base & BASE_ENABLE != 0
    }

    fn software_enabled(&self) -> bool {
        self.hardware_enabled() && self.svr & ENABLED != 0
    }

    /// The page of the registers if they are mapped (xAPIC mode): guest-physical address.
    #[inline]
    pub fn page(&self) -> Option<u64> {
        let mapped = self.base & (BASE_ENABLE | BASE_X2APIC) == BASE_ENABLE;
        mapped.then_some(self.base & 0x000f_ffff_ffff_f000)
    }

    /// Host TSC at which the timer fires next.
    #[inline]
    pub fn next_deadline(&self) -> Option<u64> {
        self.timer.deadline()
    }

    /// The task priority register.
    pub fn tpr(&self) -> u8 {
        self.tpr
    }

    /// The interrupt command register.
    pub fn icr(&self) -> u64 {
        self.icr
    }

    /// The guest's TSC deadline.
    pub fn tsc_deadline(&self) -> u64 {
        self.timer.tsc_deadline
    }

    fn timer_mode(&self) -> Mode {
        Mode::of(self.lvt[0])
    }

    /// Arms the timer for TSC `value`; ignored outside TSC-deadline mode.
    pub fn set_tsc_deadline(&mut self, value: u64, tsc_offset: u64) {
        if self.timer_mode() == Mode::TscDeadline {
            self.timer.set_tsc_deadline(value, tsc_offset);
        }
    }

    /// The guest's TSC moved against the host's: a deadline in it moves, too.
    pub fn tsc_moved(&mut self, tsc_offset: u64) {
        let deadline = self.timer.tsc_deadline;
        if deadline != 0 {
            self.set_tsc_deadline(deadline, tsc_offset);
        }
    }

    /// True while the xAPIC id is the one after RESET.
    pub fn has_own_id(&self) -> bool {
        self.xapic_id == self.id as u8
    }

    /// Tells other threads how to address this LAPIC.
    pub fn publish(&self, shared: &LapicShared) {
        shared.set_addressing(Addressing {
            x2apic: self.is_x2apic(),
            xapic_id: self.xapic_id,
            ldr: self.ldr,
            dfr: self.dfr,
            tpr: self.tpr,
            enabled: self.software_enabled(),
        });
    }

    /// Takes over vectors that other threads posted.
    pub fn accept(&mut self, posted: &Posted) {
        for n in 0..4 {
            self.requested[n] |= posted.requested[n];
            self.level[n] = self.level[n] & !posted.requested[n] | posted.level[n];
        }
        if posted.illegal {
            self.error(RECEIVE_ILLEGAL);
        }
    }

    fn request(&mut self, vector: u8, level: bool) {
        insert(&mut self.requested, vector);
        if level {
            insert(&mut self.level, vector);
        } else {
            remove(&mut self.level, vector);
        }
    }

    fn error(&mut self, bits: u32) {
        self.errors |= bits;
        self.raise_lvt(5);
    }

    /// Requests what LVT entry `n` says, if it is not masked and of fixed mode.
    fn raise_lvt(&mut self, n: usize) {
        let entry = self.lvt[n];
        if entry & MASKED != 0 || !self.hardware_enabled() {
            return;
        }
        if entry as u8 >= 16 {
            self.request(entry as u8, false);
        } else {
            // Its own error entry with a bad vector must not report itself again.
            self.errors |= RECEIVE_ILLEGAL;
        }
    }

    /// Requests the timer's interrupt if it is due. True if it was.
    pub fn check_timer(&mut self, now: u64) -> bool {
        let due = self.timer.deadline().is_some_and(|d| d <= now) && self.timer.fire(self.timer_mode(), now);
        if due {
            self.raise_lvt(0);
        }
        due
    }

    /// The processor priority register.
    fn ppr(&self) -> u8 {
        let serving = highest(&self.in_service).unwrap_or(0) & 0xf0;
        if self.tpr & 0xf0 >= serving {
            self.tpr
        } else {
            serving
        }
    }

    /// The vector that would be delivered now, if any.
    #[inline]
    pub fn deliverable(&self) -> Option<u8> {
        if self.requested == [0; 4] || !self.software_enabled() {
            return None;
        }
        highest(&self.requested).filter(|v| v & 0xf0 > self.ppr() & 0xf0)
    }

    /// Takes the vector that is deliverable into service.
    pub fn acknowledge(&mut self) -> Option<u8> {
        let vector = self.deliverable()?;
        remove(&mut self.requested, vector);
        insert(&mut self.in_service, vector);
        Some(vector)
    }

    /// True if LINT0 lets the 8259 pair through: virtual wire mode, or a LAPIC that is off.
    pub fn takes_external(&self) -> bool {
        let entry = self.lvt[3];
        let extint = entry & MASKED == 0 && (entry >> 8) as u8 & 7 == delivery::EXTINT;
        !self.hardware_enabled() || extint
    }

    /// Reads the register at `offset` of the page, at host TSC `now`.
    pub fn read(&mut self, offset: u32, now: u64) -> u32 {
        match offset {
            register::ID if self.is_x2apic() => self.id,
            register::ID => u32::from(self.xapic_id) << 24,
            register::VERSION => VERSION,
            register::TPR => u32::from(self.tpr),
            register::APR => 0,
            register::PPR => u32::from(self.ppr()),
            register::LDR => self.ldr,
            register::DFR if !self.is_x2apic() => self.dfr,
            register::SVR => self.svr,
            0x100..=0x170 => word(&self.in_service, (offset - register::ISR) >> 4),
            0x180..=0x1f0 => word(&self.level, (offset - register::TMR) >> 4),
            0x200..=0x270 => word(&self.requested, (offset - register::IRR) >> 4),
            register::ESR => self.esr,
            register::ICR => self.icr as u32,
            register::ICR_HIGH => (self.icr >> 32) as u32,
            register::LVT_TIMER..=register::LVT_ERROR => self.lvt[(offset as usize - 0x320) >> 4],
            register::INITIAL_COUNT => self.timer.initial,
            register::CURRENT_COUNT => self.timer.current(self.timer_mode(), now),
            register::DIVIDE => self.timer.divide,
            register::EOI => 0,
            _ => {
                self.error(ILLEGAL_REGISTER);
                0
            }
        }
    }

    /// Writes the register at `offset` of the page. In x2APIC mode ICR takes 64 bits.
    pub fn write(&mut self, offset: u32, value: u64, now: u64) -> Event {
        let low = value as u32;
        match offset {
            register::ID if !self.is_x2apic() => self.xapic_id = (low >> 24) as u8,
            register::TPR => self.tpr = low as u8,
            register::EOI => return self.end(),
            register::LDR if !self.is_x2apic() => self.ldr = low & 0xff00_0000,
            register::DFR if !self.is_x2apic() => self.dfr = low | 0x0fff_ffff,
            register::SVR => self.write_svr(low),
            register::ESR => {
                self.esr = self.errors;
                self.errors = 0;
            }
            register::ICR => {
                self.icr = if self.is_x2apic() {
                    value
                } else {
                    self.icr & !0xffff_ffff | u64::from(low)
                };
                self.icr &= !(1 << 12);
                return self.send();
            }
            register::ICR_HIGH if !self.is_x2apic() => {
                self.icr = self.icr & 0xffff_ffff | u64::from(low) << 32
            }
            register::LVT_TIMER..=register::LVT_ERROR => self.write_lvt((offset as usize - 0x320) >> 4, low),
            register::INITIAL_COUNT => self.timer.set_initial(low, self.timer_mode(), now),
            register::DIVIDE => self.timer.set_divide(low, self.timer_mode(), now),
            register::SELF_IPI if self.is_x2apic() => return self.send_to_self(low as u8),
            // Read-only registers.
            register::VERSION | register::APR | register::PPR | 0x100..=0x270 | register::CURRENT_COUNT => {}
            _ => self.error(ILLEGAL_REGISTER),
        }
        Event::None
    }

    fn write_svr(&mut self, value: u32) {
        self.svr = value & 0x1ff;
        if self.svr & ENABLED == 0 {
            for entry in &mut self.lvt {
                *entry |= MASKED;
            }
        }
    }

    fn write_lvt(&mut self, n: usize, value: u32) {
        const WRITABLE: [u32; 6] = [0x7_00ff, 0x1_07ff, 0x1_07ff, 0x1_a7ff, 0x1_a7ff, 0x1_00ff];
        let mut value = value & WRITABLE[n];
        if self.svr & ENABLED == 0 {
            value |= MASKED;
        }
        if n == 0 {
            self.timer.set_mode(self.timer_mode(), Mode::of(value));
        }
        self.lvt[n] = value;
    }

    fn end(&mut self) -> Event {
        let Some(vector) = highest(&self.in_service) else {
            return Event::None;
        };
        remove(&mut self.in_service, vector);
        Event::Ended {
            vector,
            level: contains(&self.level, vector),
        }
    }

    fn send_to_self(&mut self, vector: u8) -> Event {
        if vector < 16 {
            self.error(SEND_ILLEGAL);
        } else {
            self.request(vector, false);
        }
        Event::None
    }

    /// What the ICR says.
    fn send(&mut self) -> Event {
        const LOGICAL: u64 = 1 << 11;
        const ASSERT: u64 = 1 << 14;
        const LEVEL: u64 = 1 << 15;
        let icr = self.icr;
        let vector = icr as u8;
        let mode = (icr >> 8) as u8 & 7;
        if mode == delivery::INIT && icr & (LEVEL | ASSERT) == LEVEL {
            // INIT level de-assert only synchronizes arbitration ids, which are gone.
            return Event::None;
        }
        let fixed = matches!(mode, delivery::FIXED | delivery::LOWEST);
        if fixed && vector < 16 {
            self.error(SEND_ILLEGAL);
            return Event::None;
        }
        let to = if self.is_x2apic() {
            (icr >> 32) as u32
        } else {
            (icr >> 56) as u32
        };
        let destination = match icr >> 18 & 3 {
            1 if fixed => return self.send_to_self(vector),
            1 => Destination::Myself,
            2 => Destination::All,
            3 => Destination::AllButSelf,
            _ if icr & LOGICAL != 0 => Destination::Logical(to),
            _ if to == 0xff && !self.is_x2apic() => Destination::All,
            _ => Destination::Physical(to),
        };
        Event::Send(Message {
            destination,
            delivery: mode,
            vector,
            level: false,
            ipi: true,
        })
    }

    /// The register page as an accelerator saves it.
    pub fn save(&self, now: u64) -> LapicState {
        let mut registers = [0; 1024];
        let mut put = |offset: u32, value: u32| {
            registers[offset as usize..offset as usize + 4].copy_from_slice(&value.to_le_bytes());
        };
        put(
            register::ID,
            if self.is_x2apic() {
                self.id
            } else {
                u32::from(self.xapic_id) << 24
            },
        );
        put(register::VERSION, VERSION);
        put(register::TPR, u32::from(self.tpr));
        put(register::PPR, u32::from(self.ppr()));
        put(register::LDR, self.ldr);
        put(register::DFR, self.dfr);
        put(register::SVR, self.svr);
        for n in 0..8 {
            put(register::ISR + 16 * n, word(&self.in_service, n));
            put(register::TMR + 16 * n, word(&self.level, n));
            put(register::IRR + 16 * n, word(&self.requested, n));
        }
        put(register::ESR, self.esr);
        put(register::ICR, self.icr as u32);
        put(register::ICR_HIGH, (self.icr >> 32) as u32);
        for (n, &entry) in self.lvt.iter().enumerate() {
            put(register::LVT_TIMER + 16 * n as u32, entry);
        }
        put(register::INITIAL_COUNT, self.timer.initial);
        put(
            register::CURRENT_COUNT,
            self.timer.current(self.timer_mode(), now),
        );
        put(register::DIVIDE, self.timer.divide);
        LapicState { registers }
    }

    /// Sets the TSC deadline without arming it; [`Lapic::restore`] does that.
    pub fn restore_tsc_deadline(&mut self, value: u64) {
        self.timer.tsc_deadline = value;
    }

    /// Takes over a saved page. The TSC deadline, an MSR, was restored before it.
    pub fn restore(&mut self, state: &LapicState, now: u64, tsc_offset: u64) {
        let get = |offset: u32| {
            let at = offset as usize;
            let bytes = &state.registers[at..at + 4];
            u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
        };
        let set = |first: u32| -> Vectors {
            std::array::from_fn(|n| {
                let n = n as u32;
                u64::from(get(first + 32 * n)) | u64::from(get(first + 32 * n + 16)) << 32
            })
        };
        let deadline = self.timer.tsc_deadline;
        self.reset();
        self.timer.tsc_deadline = deadline;
        self.tpr = get(register::TPR) as u8;
        if !self.is_x2apic() {
            self.xapic_id = (get(register::ID) >> 24) as u8;
            self.ldr = get(register::LDR);
            self.dfr = get(register::DFR);
        }
        self.svr = get(register::SVR) & 0x1ff;
        self.in_service = set(register::ISR);
        self.level = set(register::TMR);
        self.requested = set(register::IRR);
        self.esr = get(register::ESR);
        self.icr = u64::from(get(register::ICR)) | u64::from(get(register::ICR_HIGH)) << 32;
        for n in 0..6 {
            self.lvt[n as usize] = get(register::LVT_TIMER + 16 * n);
        }
        self.timer.divide = get(register::DIVIDE) & 0xb;
        self.timer.initial = get(register::INITIAL_COUNT);
        if self.timer_mode() != Mode::TscDeadline && self.timer.initial != 0 {
            self.timer.set_current(get(register::CURRENT_COUNT), now);
        }
        self.tsc_moved(tsc_offset);
    }
}
