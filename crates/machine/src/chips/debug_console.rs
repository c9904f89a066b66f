//! The port that firmware writes its log to (ports 0x402 and 0xe9).

use std::sync::Arc;

use ostler_bus::Device;

use crate::SerialBackend;

/// What a read gives, so that firmware knows that someone listens.
const LISTENS: u8 = 0xe9;

/// The port, with what listens.
pub struct DebugConsole(pub Arc<dyn SerialBackend>);

impl Device for DebugConsole {
    fn read(&self, _: u64, data: &mut [u8]) {
        data.fill(LISTENS);
    }

    fn write(&self, _: u64, data: &[u8]) {
        self.0.output(data);
    }
}
