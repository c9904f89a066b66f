//! The platform that tiny guests see: a few ports, a few registers, and a script that reacts to their steps.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use ostler_accel::{Exit, Kick, KickSource, Vm};
use ostler_memory::GuestRam;
use ostler_memory::vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use crate::layout::*;
use crate::{Guest, Next};

/// What happened so far.
#[derive(Debug, Default)]
pub struct Log {
    /// What the guest printed.
    pub text: Vec<u8>,
    /// Its exit code, once it ended itself.
    pub exit: Option<u8>,
    /// It ended by a triple fault.
    pub shutdown: bool,
    /// Vectors whose end of interrupt left for user mode.
    pub ends: Vec<u8>,
    /// Stores that reached user mode although a doorbell was near.
    pub missed_bells: Vec<(u64, u64)>,
    /// How often a CPU came back because it was kicked.
    pub kicked: u32,
    /// The first thing that went wrong.
    pub wrong: Option<String>,
}

/// One play of one guest, shared by its CPUs' threads and its script.
pub struct Stage {
    pub vm: Arc<dyn Vm>,
    pub ram: Arc<GuestRam>,
    log: Mutex<Log>,
    device: Mutex<[u8; DEVICE_SIZE as usize]>,
    latch: Mutex<[u8; 4]>,
    counter: AtomicU8,
    kickers: OnceLock<Vec<Arc<dyn Kick>>>,
    over: AtomicBool,
    /// It is being moved: every CPU is to stop where it can be saved.
    moving: AtomicBool,
    /// Events that a script wants to keep.
    pub events: Mutex<Vec<EventFd>>,
    /// The 8259 of the guests that have one.
    pub pic: Arc<Pic>,
}

/// As much of an 8259 as a CPU sees: one request, one vector.
#[derive(Default)]
pub struct Pic(AtomicBool);

/// The vector that the [`Pic`] gives.
const PIC_VECTOR: u8 = 0x50;

impl Pic {
    /// Raises the request.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl ostler_accel::ExternalInterrupts for Pic {
    fn pending(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    fn acknowledge(&self) -> Option<u8> {
        self.0.swap(false, Ordering::SeqCst).then_some(PIC_VECTOR)
    }
}

/// What a CPU's thread does after an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Enters the guest again.
    Again,
    /// Saves the state and goes on elsewhere.
    Move,
    /// Ends.
    Leave,
}

impl Stage {
    /// A stage for a guest in `vm`, with what an earlier one (before a move) collected.
    pub fn new(vm: Arc<dyn Vm>, ram: Arc<GuestRam>, earlier: Option<&Stage>) -> Self {
        let log = earlier
            .map(|stage| std::mem::take(&mut *stage.log()))
            .unwrap_or_default();
        Self {
            vm,
            ram,
            log: Mutex::new(log),
            device: Mutex::new([0; DEVICE_SIZE as usize]),
            latch: Mutex::new([0; 4]),
            counter: AtomicU8::new(0),
            kickers: OnceLock::new(),
            over: AtomicBool::new(false),
            moving: AtomicBool::new(false),
            events: Mutex::new(Vec::new()),
            pic: Arc::new(Pic::default()),
        }
    }

    /// The log.
    pub fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells how to reach the CPUs.
    pub fn set_kickers(&self, kickers: Vec<Arc<dyn Kick>>) {
        // Set once, before any CPU runs.
        let _ = self.kickers.set(kickers);
    }

    /// Kicks every CPU.
    pub fn kick_all(&self) {
        for kicker in self.kickers.get().into_iter().flatten() {
            kicker.kick(KickSource::Control);
        }
    }

    /// Ends the play for all CPUs; a reason makes it a failure.
    pub fn end(&self, wrong: Option<String>) {
        if let Some(wrong) = wrong {
            self.log().wrong.get_or_insert(wrong);
        }
        self.over.store(true, Ordering::SeqCst);
        self.kick_all();
    }

    /// True once the play ended.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// True while the CPUs are brought to a halt for a move.
    pub fn is_moving(&self) -> bool {
        self.moving.load(Ordering::SeqCst)
    }

    /// Reads a word of the guest's memory.
    pub fn read_word(&self, gpa: u64) -> Result<u32, String> {
        self.ram.read_obj(GuestAddress(gpa)).map_err(|e| e.to_string())
    }

    /// Writes the word through which guest and script talk.
    pub fn set_mailbox(&self, value: u32) -> Result<(), String> {
        self.ram
            .write_obj(value, GuestAddress(MAILBOX))
            .map_err(|e| e.to_string())
    }

    /// Does what the platform does on `exit`.
    pub fn handle(self: &Arc<Self>, guest: &Guest, exit: Exit<'_>) -> After {
        match self.try_handle(guest, exit) {
            Ok(after) => after,
            Err(wrong) => {
                self.end(Some(wrong));
                After::Leave
            }
        }
    }

    fn try_handle(self: &Arc<Self>, guest: &Guest, exit: Exit<'_>) -> Result<After, String> {
        match exit {
            Exit::PortRead { port, width, data } => self.port_read(port, width, data)?,
            Exit::PortWrite { port, width, data } => return self.port_write(guest, port, width, data),
            Exit::MmioRead { gpa, data } => {
                let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
                data.copy_from_slice(
                    device
                        .get(register(gpa, data.len())?)
                        .ok_or("a load outside of the device")?,
                );
            }
            Exit::MmioWrite { gpa, data } => self.store(gpa, data)?,
            Exit::EndOfInterrupt { vector } => self.log().ends.push(vector),
            Exit::Kicked => {
                self.log().kicked += 1;
                if self.is_over() {
                    return Ok(After::Leave);
                }
            }
            Exit::Shutdown => {
                self.log().shutdown = true;
                self.end(None);
                return Ok(After::Leave);
            }
            Exit::Reset => return Err("a reset that no tiny guest asks for".into()),
            Exit::EmulationFailed => return Err("an instruction that the accelerator does not know".into()),
            Exit::Debug(cause) => return Err(format!("a stop that no debugger asked for ({cause:?})")),
        }
        Ok(After::Again)
    }

    fn port_read(&self, port: u16, width: u8, data: &mut [u8]) -> Result<(), String> {
        match port {
            SERIAL_STATUS => data.fill(SERIAL_READY),
            COUNTER => data.fill_with(|| self.counter.fetch_add(1, Ordering::Relaxed) + 1),
            LATCH => {
                let latch = self.latch.lock().unwrap_or_else(PoisonError::into_inner);
                for item in data.chunks_mut(width.into()) {
                    item.copy_from_slice(&latch[..item.len()]);
                }
            }
            _ => return Err(format!("input from port {port:#x}, where nothing is")),
        }
        Ok(())
    }

    fn port_write(
        self: &Arc<Self>,
        guest: &Guest,
        port: u16,
        width: u8,
        data: &[u8],
    ) -> Result<After, String> {
        let first = data.first().copied().unwrap_or(0);
        match port {
            SERIAL_DATA => self.log().text.extend_from_slice(data),
            LATCH => {
                let mut latch = self.latch.lock().unwrap_or_else(PoisonError::into_inner);
                for item in data.chunks(width.into()) {
                    latch[..item.len()].copy_from_slice(item);
                }
            }
            EXIT => {
                self.log().exit = Some(first);
                self.end(None);
                return Ok(After::Leave);
            }
            STEP => {
                return Ok(match (guest.step)(self, first.into())? {
                    Next::Continue => After::Again,
                    Next::Move => {
                        self.moving.store(true, Ordering::SeqCst);
                        After::Move
                    }
                });
            }
            _ => return Err(format!("output to port {port:#x}, where nothing is")),
        }
        Ok(After::Again)
    }

    fn store(&self, gpa: u64, data: &[u8]) -> Result<(), String> {
        if [BELL_FOR_ONE, BELL_FOR_ALL].contains(&gpa) {
            let mut value = [0; 8];
            value[..data.len()].copy_from_slice(data);
            self.log().missed_bells.push((gpa, u64::from_le_bytes(value)));
            return Ok(());
        }
        let mut device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let target = device
            .get_mut(register(gpa, data.len())?)
            .ok_or("a store outside of the device")?;
        target.copy_from_slice(data);
        Ok(())
    }
}

/// The device's registers that an access touches.
fn register(gpa: u64, len: usize) -> Result<std::ops::Range<usize>, String> {
    let offset = gpa.checked_sub(DEVICE).filter(|&offset| offset < DEVICE_SIZE);
    let offset = offset.ok_or_else(|| format!("an access to {gpa:#x}, where nothing is"))? as usize;
    Ok(offset..offset + len)
}
