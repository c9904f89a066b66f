//! A port by which a guest makes connections for Hyper-V's synthetic interrupts, as QEMU's hyperv-testdev does for kvm-unit-tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ostler_accel::{Error, SyntheticConnection, SyntheticInterrupts, SyntheticSource, Vm};
use ostler_bus::Device;

/// The port: 32 bits that are written, of which the lowest byte is a source, the next a vCPU, the next a command and the highest a
/// connection's number.
pub struct SyntheticTestPort {
    vm: Arc<dyn Vm>,
    /// The guest asked for something that there is not.
    complained: AtomicBool,
}

const OPEN: u8 = 1;
const CLOSE: u8 = 2;
const RAISE: u8 = 3;
const CONNECT_MESSAGES: u8 = 4;
const DISCONNECT_MESSAGES: u8 = 5;
const CONNECT_EVENTS: u8 = 6;
const DISCONNECT_EVENTS: u8 = 7;

impl SyntheticTestPort {
    /// Bytes that it has of the ports.
    pub const SIZE: u64 = 4;

    /// A port for the CPUs of `vm`; where the accelerator has no synthetic interrupts, it does nothing.
    pub fn new(vm: Arc<dyn Vm>) -> Self {
        Self {
            vm,
            complained: AtomicBool::new(false),
        }
    }
}

/// Does what the guest wrote. Commands that there are not do nothing.
fn command(
    interrupts: &dyn SyntheticInterrupts,
    [sint, vcpu, command, number]: [u8; 4],
) -> Result<(), Error> {
    let source = SyntheticSource {
        vcpu: vcpu.into(),
        sint,
    };
    let messages = SyntheticConnection::Messages(number.into());
    let events = SyntheticConnection::Events(number.into());
    match command {
        OPEN => interrupts.open(source)?,
        CLOSE => interrupts.close(source),
        RAISE => interrupts.raise(source),
        CONNECT_MESSAGES => interrupts.connect(messages, source)?,
        DISCONNECT_MESSAGES => interrupts.disconnect(messages),
        CONNECT_EVENTS => interrupts.connect(events, source)?,
        DISCONNECT_EVENTS => interrupts.disconnect(events),
        _ => {}
    }
    Ok(())
}

impl Device for SyntheticTestPort {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        let (0, &[sint, vcpu, what, number]) = (offset, data) else {
            return;
        };
        let Some(interrupts) = self.vm.synthetic_interrupts() else {
            return;
        };
        if let Err(error) = command(interrupts, [sint, vcpu, what, number])
            && !self.complained.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "the guest asked its test device for what is not there; nothing further of that is told");
        }
    }
}
