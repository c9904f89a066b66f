//! A guest for unit tests: built like any other, with a kernel of one instruction that no one runs.

use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use crate::console::Console;
use crate::driver::DriverHandle;
use crate::guest::{Consoles, Guest};
use crate::handoff::Descriptors;
use crate::manager::Manager;
use crate::spec::{
    BalloonSpec, BootSpec, ConsoleSpec, DiskBus, DiskDevice, DiskFormat, DiskSpec, GuestSpec, Guid,
    KernelSpec, NetBackend, NetSpec, PmemSpec,
};

/// Bytes of its disk.
pub(crate) const DISK_SIZE: u64 = 1 << 20;

pub(crate) struct TestGuest {
    guest: Guest,
    spec: GuestSpec,
    driver: DriverHandle,
    consoles: Consoles,
    /// The other end of its network card.
    _cable: std::os::unix::net::UnixStream,
}

impl TestGuest {
    pub fn manager(&mut self) -> Manager {
        self.guest
            .manager(&self.spec, self.driver.clone(), &self.consoles)
    }
}

/// A Multiboot kernel that sleeps for ever.
fn kernel() -> File {
    const MAGIC: u32 = 0x1bad_b002;
    const FLAGS: u32 = 1 << 16;
    const BASE: u32 = 0x10_0000;
    let header = [
        MAGIC,
        FLAGS,
        0u32.wrapping_sub(MAGIC + FLAGS),
        BASE,
        BASE,
        0,
        0,
        BASE + 32,
    ];
    let mut file = tempfile::tempfile().unwrap();
    for word in header {
        file.write_all(&word.to_le_bytes()).unwrap();
    }
    // cli; hlt; jump back to the hlt
    file.write_all(&[0xfa, 0xf4, 0xeb, 0xfd]).unwrap();
    file
}

/// A guest with two of three possible CPUs on the software CPU, a disk `disk0`, a CD-ROM drive `disk1`, a network card `net0`,
/// an entropy source, a memory balloon, 16 MiB of memory that can come, 2 MiB of
/// persistent memory and a generation ID.
pub(crate) fn guest(driver: &DriverHandle) -> TestGuest {
    let mut descriptors = Descriptors::new();
    let mut spec = crate::spec::tests::spec();
    spec.name = "mare".into();
    spec.cpus = 2;
    spec.max_cpus = Some(3);
    spec.memory = 16 << 20;
    spec.max_memory = Some(32 << 20);
    spec.boot = BootSpec::Kernel(KernelSpec {
        kernel: descriptors.push(kernel()),
        initrd: None,
        command_line: String::new(),
    });
    let image = tempfile::tempfile().unwrap();
    image.set_len(DISK_SIZE).unwrap();
    spec.disks.push(DiskSpec {
        file: Some(descriptors.push(image)),
        format: DiskFormat::Raw,
        readonly: false,
        serial: "one".into(),
        bus: DiskBus::Virtio,
        device: DiskDevice::Disk,
    });
    let medium = tempfile::tempfile().unwrap();
    medium.set_len(DISK_SIZE).unwrap();
    let medium = File::open(format!("/proc/self/fd/{}", medium.as_raw_fd())).unwrap();
    spec.disks.push(DiskSpec {
        file: Some(descriptors.push(medium)),
        format: DiskFormat::Raw,
        readonly: true,
        serial: "two".into(),
        bus: DiskBus::Sata,
        device: DiskDevice::Cdrom,
    });
    spec.display = Some(crate::spec::DisplaySpec {
        rom: None,
        plain: false,
    });
    let (ours, cable) = std::os::unix::net::UnixStream::pair().unwrap();
    spec.nets.push(NetSpec {
        model: crate::spec::NetModel::Virtio,
        backend: NetBackend::Socket {
            connection: descriptors.push(ours),
            headers: false,
        },
        mac: "52:54:00:01:02:03".parse().unwrap(),
    });
    spec.balloon = Some(BalloonSpec {
        deflate_on_oom: true,
        free_page_reporting: true,
    });
    let memory = tempfile::tempfile().unwrap();
    memory.set_len(2 << 20).unwrap();
    spec.pmem.push(PmemSpec {
        file: descriptors.push(memory),
        size: 2 << 20,
        readonly: false,
    });
    spec.generation_id = Some(Guid([7; 16]));
    let console = || Arc::new(Console::open("console", &ConsoleSpec::None, &descriptors).unwrap());
    let consoles = Consoles {
        serial: console(),
        virtio: console(),
        debug: console(),
        channels: Vec::new(),
    };
    let guest = Guest::build(&spec, &descriptors, driver, &consoles).unwrap();
    TestGuest {
        guest,
        spec,
        driver: driver.clone(),
        consoles,
        _cable: cable,
    }
}
