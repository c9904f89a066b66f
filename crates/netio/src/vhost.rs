//! vhost-net: the kernel moves frames between a tap and a guest's vrings itself.
//!
//! It writes to guest RAM past every page tracker. The software CPU would go on with decoded code that a frame has
//! overwritten, so it must not be used there. On KVM the dirty log lacks these writes (KVM logs those of the guest only,
//! and VHOST_F_LOG_ALL is not asked for): whoever turns the log on has to take the rings back first.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;

use ostler_memory::GuestRam;
use ostler_memory::vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
use vhost::vhost_kern::VhostKernBackend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vmm_sys_util::eventfd::EventFd;

use crate::Error;

/// Vrings of a queue pair: receive and transmit.
pub const VRINGS: usize = 2;
/// `VHOST_NET_SET_BACKEND` (<linux/vhost.h>).
const VHOST_NET_SET_BACKEND: libc::Ioctl = 0x4008_af30;

/// Where a vring lies and how it is signalled. Addresses are guest-physical.
#[derive(Debug)]
pub struct VringPlace<'a> {
    /// Descriptors, a power of two.
    pub size: u16,
    /// The descriptor table.
    pub descriptors: u64,
    /// The driver area (available ring).
    pub available: u64,
    /// The device area (used ring).
    pub used: u64,
    /// The next index to look at in the available ring.
    pub next: u16,
    /// Rung by the guest.
    pub kick: &'a EventFd,
    /// Signalled by the kernel when it used descriptors.
    pub call: &'a EventFd,
}

/// A worker in the host's kernel for one queue pair.
pub trait KernelWorker: Send + Sync {
    /// The virtio features that it knows, and some of its own. A guest that negotiated others needs a worker of ours.
    fn features(&self, ram: &Arc<GuestRam>) -> Result<u64, Error>;

    /// Starts: from now on the kernel serves both vrings. `features` are those that the guest accepted. After an error
    /// it serves none of them.
    fn start(
        &self,
        ram: &Arc<GuestRam>,
        features: u64,
        vrings: [VringPlace<'_>; VRINGS],
    ) -> Result<(), Error>;

    /// Stops, and returns where each vring's available ring has been read to.
    fn stop(&self, ram: &Arc<GuestRam>) -> Result<[u16; VRINGS], Error>;
}

/// /dev/vhost-net for one queue pair of a tap.
#[derive(Debug)]
pub struct VhostNet {
    file: File,
    tap: Arc<File>,
}

/// The handle together with the RAM that addresses mean.
struct Bound<'a> {
    file: &'a File,
    ram: Arc<GuestRam>,
}

impl AsRawFd for Bound<'_> {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl VhostKernBackend for Bound<'_> {
    type AS = Arc<GuestRam>;

    fn mem(&self) -> &Self::AS {
        &self.ram
    }
}

fn failed(what: &'static str) -> impl FnOnce(vhost::Error) -> Error {
    move |error| Error::Setup {
        what,
        name: "vhost-net".into(),
        source: io::Error::other(error),
    }
}

impl VhostNet {
    /// The worker behind `file`, an open /dev/vhost-net, for the queue pair `tap`.
    pub(crate) fn new(file: File, tap: Arc<File>) -> Self {
        Self { file, tap }
    }

    fn bind(&self, ram: &Arc<GuestRam>) -> Bound<'_> {
        Bound {
            file: &self.file,
            ram: ram.clone(),
        }
    }

    fn detach(&self) {
        for index in 0..VRINGS {
            // Detaching what is not attached is no failure.
            let _ = self.set_backend(index, -1);
        }
    }

    fn set_backend(&self, index: usize, tap: RawFd) -> io::Result<()> {
        #[repr(C)]
        struct VringFile {
            index: u32,
            fd: i32,
        }
        let request = VringFile {
            index: index as u32,
            fd: tap,
        };
        // SAFETY: VHOST_NET_SET_BACKEND reads a vhost_vring_file.
        let result = unsafe { libc::ioctl(self.file.as_raw_fd(), VHOST_NET_SET_BACKEND, &raw const request) };
        if result < 0 {
            Err(io::Error::last_os_error())
        } else {
            Ok(())
        }
    }
}

impl KernelWorker for VhostNet {
    fn features(&self, ram: &Arc<GuestRam>) -> Result<u64, Error> {
        self.bind(ram)
            .get_features()
            .map_err(failed("asking for the features"))
    }

    fn start(
        &self,
        ram: &Arc<GuestRam>,
        features: u64,
        vrings: [VringPlace<'_>; VRINGS],
    ) -> Result<(), Error> {
        let bound = self.bind(ram);
        // A second start after `stop` finds the owner set already.
        if let Err(error) = bound.set_owner()
            && !matches!(&error, vhost::Error::IoctlError(e) if e.raw_os_error() == Some(libc::EBUSY))
        {
            return Err(failed("taking ownership")(error));
        }
        let known = bound.get_features().map_err(failed("asking for the features"))?;
        bound
            .set_features(features & known)
            .map_err(failed("setting the features"))?;
        bound
            .set_mem_table(&memory_table(ram))
            .map_err(failed("handing over the memory table"))?;
        for (index, vring) in vrings.iter().enumerate() {
            set_up(&bound, index, vring)?;
        }
        for index in 0..VRINGS {
            if let Err(source) = self.set_backend(index, self.tap.as_raw_fd()) {
                self.detach();
                return Err(Error::Setup {
                    what: "attaching the tap",
                    name: "vhost-net".into(),
                    source,
                });
            }
        }
        Ok(())
    }

    fn stop(&self, ram: &Arc<GuestRam>) -> Result<[u16; VRINGS], Error> {
        self.detach();
        let bound = self.bind(ram);
        let mut next = [0; VRINGS];
        for (index, next) in next.iter_mut().enumerate() {
            // The upper half is the wrap counter of packed rings, which are not offered.
            *next = bound
                .get_vring_base(index)
                .map_err(failed("asking for the vring's index"))? as u16;
        }
        Ok(next)
    }
}

impl Drop for VhostNet {
    fn drop(&mut self) {
        self.detach();
    }
}

fn set_up(bound: &Bound<'_>, index: usize, vring: &VringPlace<'_>) -> Result<(), Error> {
    let place = VringConfigData {
        queue_max_size: 32768,
        queue_size: vring.size,
        flags: 0,
        desc_table_addr: vring.descriptors,
        used_ring_addr: vring.used,
        avail_ring_addr: vring.available,
        log_addr: None,
    };
    bound
        .set_vring_num(index, vring.size)
        .map_err(failed("setting a vring's size"))?;
    bound
        .set_vring_addr(index, &place)
        .map_err(failed("setting a vring's addresses"))?;
    bound
        .set_vring_base(index, vring.next)
        .map_err(failed("setting a vring's index"))?;
    bound
        .set_vring_kick(index, vring.kick)
        .map_err(failed("setting a vring's doorbell"))?;
    bound
        .set_vring_call(index, vring.call)
        .map_err(failed("setting a vring's interrupt"))
}

fn memory_table(ram: &GuestRam) -> Vec<VhostUserMemoryRegionInfo> {
    let region = |region: &ostler_memory::RamRegion| VhostUserMemoryRegionInfo {
        guest_phys_addr: region.start_addr().0,
        memory_size: region.len(),
        userspace_addr: region.as_ptr().addr() as u64,
        mmap_offset: 0,
        mmap_handle: -1,
    };
    ram.iter().map(region).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_memory::{MMIO_GAP_END, MMIO_GAP_START, RamOptions, allocate};

    #[test]
    fn the_memory_table_has_a_row_a_region() {
        let ram = allocate(MMIO_GAP_START + (1 << 20), RamOptions::default()).unwrap();
        let table = memory_table(&ram);
        let rows: Vec<_> = table
            .iter()
            .map(|row| (row.guest_phys_addr, row.memory_size))
            .collect();
        assert_eq!(rows, [(0, MMIO_GAP_START), (MMIO_GAP_END, 1 << 20)]);
    }

    #[test]
    fn a_descriptor_of_another_kind_fails_in_one_line() {
        let null = || File::open("/dev/null").unwrap();
        let ram = allocate(1 << 20, RamOptions::default()).unwrap();
        let net = VhostNet::new(null(), Arc::new(null()));
        let event = EventFd::new(0).unwrap();
        let vring = |at: u64| VringPlace {
            size: 8,
            descriptors: at,
            available: at + 0x1000,
            used: at + 0x2000,
            next: 0,
            kick: &event,
            call: &event,
        };
        let refused = net.start(&ram, 0, [vring(0), vring(0x4000)]).unwrap_err();
        assert_eq!(refused.to_string().lines().count(), 1);
        assert!(net.features(&ram).is_err());
    }
}
