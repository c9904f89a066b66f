//! The device as its transport sees it.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ostler_virtio::{
    Activation, ActiveQueue, DeviceKind, DeviceMetrics, Error, VirtioDevice, read_structure,
};
use ostler_worker::Worker;
use rustix::net::SocketType;

use super::worker::FsWorker;
use crate::front::Session;

/// Longest tag, in bytes (5.11.4).
pub const MAX_TAG: usize = 36;
/// Entries of the queue for requests that overtake others, which are short and few.
const FIRST_QUEUE_SIZE: u16 = 128;
/// Entries of the request queue: Linux's driver asks for as many pages at once, up to 1 MiB.
const QUEUE_SIZE: u16 = 1024;
/// `num_request_queues`.
const REQUEST_QUEUES: u32 = 1;

/// What outlives a start of the driver.
pub(super) struct Shared {
    pub tag: String,
    /// Whether what changes something is answered "read-only file system".
    pub readonly: bool,
    /// The way to whoever connects virtiofsd.
    pub plug: OwnedFd,
    /// The virtiofsd of the last start, whose session the next driver begins anew.
    pub session: Mutex<Option<Session>>,
    /// Numbers of wishes are never used twice in a row.
    wishes: AtomicU32,
}

/// A folder of the host.
pub struct FsDevice {
    shared: Arc<Shared>,
    worker: Option<Worker<Vec<ActiveQueue>>>,
    metrics: Arc<DeviceMetrics>,
}

impl FsDevice {
    /// A device that is not running yet. The guest finds it by its tag of 1 to [`MAX_TAG`] bytes. With `readonly` no request that changes
    /// something comes to virtiofsd.
    ///
    /// # Errors
    /// If `plug` is no SEQPACKET socket, or the tag has another length or a NUL.
    pub fn new(tag: &str, readonly: bool, plug: OwnedFd) -> io::Result<Self> {
        let wrong = |what| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        if tag.is_empty() || tag.len() > MAX_TAG || tag.contains('\0') {
            return wrong("its tag has no 1 to 36 bytes without NUL");
        }
        if rustix::net::sockopt::socket_type(&plug)? != SocketType::SEQPACKET {
            return wrong("its plug is no SEQPACKET socket");
        }
        Ok(Self {
            shared: Arc::new(Shared {
                tag: tag.into(),
                readonly,
                plug,
                session: Mutex::new(None),
                wishes: AtomicU32::new(0),
            }),
            worker: None,
            metrics: Arc::default(),
        })
    }

    /// What the guest calls it.
    pub fn tag(&self) -> &str {
        &self.shared.tag
    }
}

impl VirtioDevice for FsDevice {
    fn kind(&self) -> DeviceKind {
        DeviceKind::Fs
    }

    fn features(&self) -> u64 {
        0
    }

    fn queue_max_sizes(&self) -> Vec<u16> {
        vec![FIRST_QUEUE_SIZE, QUEUE_SIZE]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; MAX_TAG + 4];
        config[..self.shared.tag.len()].copy_from_slice(self.shared.tag.as_bytes());
        config[MAX_TAG..].copy_from_slice(&REQUEST_QUEUES.to_le_bytes());
        read_structure(&config, offset, data);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, activation: Activation) -> Result<(), Error> {
        let worker = FsWorker::new(activation, self.shared.clone(), self.metrics.clone())?;
        self.worker = Some(Worker::spawn("fs".into(), move |stop| worker.run(&stop))?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<ActiveQueue> {
        self.worker.take().and_then(Worker::stop).unwrap_or_default()
    }

    fn metrics(&self) -> Arc<DeviceMetrics> {
        self.metrics.clone()
    }
}

impl Shared {
    /// Takes the session of the last start.
    pub fn take_session(&self) -> Option<Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// The number of another wish.
    pub fn next_wish(&self) -> u32 {
        self.wishes.fetch_add(1, Ordering::Relaxed)
    }

    /// Keeps a session for the next start.
    pub fn keep_session(&self, session: Session) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(session);
    }
}
