//! The virtio devices that a specification asks for, in the order of their slots: disks, network cards, console, entropy.

use std::fs::File;
use std::sync::Arc;

use ostler_disk::{Disk, RawDisk};
use ostler_netio::{NetBackend, OpenTap, SocketNet, Tap};
use ostler_virtio::block::{BlockDevice, BlockOptions};
use ostler_virtio::console::{ConsoleControl, ConsoleDevice, PortOptions, WindowSize};
use ostler_virtio::net::{NetControl, NetDevice, NetOptions};
use ostler_virtio::rng::RngDevice;
use ostler_virtio::{Platform, VirtioDevice, VirtioPci};

use crate::Error;
use crate::console::{Console, PortStream};
use crate::handoff::Descriptors;
use crate::spec::{self, AcceleratorSpec, ConsoleSpec, DiskFormat, DiskSpec, GuestSpec, Slot};

/// Most queues of a disk, and most queue pairs of a network card; more than CPUs of the host bring nothing.
const MAX_QUEUES: u32 = 8;
/// Size of a terminal until someone tells a better one.
const DEFAULT_WINDOW: WindowSize = WindowSize {
    columns: 80,
    rows: 24,
};

/// A device with the name that users see.
pub(crate) struct NamedDevice {
    pub name: String,
    pub device: Arc<VirtioPci>,
}

/// All devices of a guest.
pub(crate) struct Devices {
    pub list: Vec<NamedDevice>,
    /// Of the virtio console, if there is one.
    pub console: Option<ConsoleControl>,
    /// Of the network cards, by name.
    pub nets: Vec<(String, NetControl)>,
}

type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Makes all devices, not running yet. `console` is what the virtio console is connected to.
pub(crate) fn build(
    spec: &GuestSpec,
    descriptors: &Descriptors,
    platform: &Platform,
    console: &Arc<Console>,
) -> Result<Devices, Error> {
    let mut list = Vec::new();
    let mut console_control = None;
    let mut nets = Vec::new();
    let mut add = |name: String, device: Box<dyn VirtioDevice>| -> Result<(), Error> {
        let device = VirtioPci::new(device, platform).map_err(|e| Error::part(name.clone(), e))?;
        list.push(NamedDevice { name, device });
        Ok(())
    };
    let queues = spec.cpus.min(MAX_QUEUES) as u16;
    for (index, disk) in spec.disks.iter().enumerate() {
        let name = format!("disk{index}");
        let back = open_disk(disk, descriptors).map_err(|e| Error::part(name.clone(), e))?;
        let options = BlockOptions {
            serial: disk.serial.clone(),
            queues,
        };
        add(name, Box::new(BlockDevice::new(back, &options)))?;
    }
    for (index, net) in spec.nets.iter().enumerate() {
        let name = format!("net{index}");
        let back = open_net(&net.backend, &spec.accelerator, descriptors)
            .map_err(|e| Error::part(name.clone(), e))?;
        let options = NetOptions {
            mac: net.mac.0,
            pairs: queues,
        };
        let device = NetDevice::new(back, options);
        nets.push((name.clone(), device.control()));
        add(name, Box::new(device))?;
    }
    if spec.console != ConsoleSpec::None {
        let (device, control) = open_console(console).map_err(|e| Error::part("the virtio console", e))?;
        add("console".into(), Box::new(device))?;
        console_control = Some(control);
    }
    if spec.rng {
        add("rng".into(), Box::new(RngDevice::new()))?;
    }
    Ok(Devices {
        list,
        console: console_control,
        nets,
    })
}

fn open_disk(spec: &DiskSpec, descriptors: &Descriptors) -> Result<Arc<dyn Disk>, AnyError> {
    let file = File::from(descriptors.duplicate(spec.file)?);
    match spec.format {
        DiskFormat::Raw => Ok(Arc::new(RawDisk::new(file)?)),
    }
}

fn open_net(
    spec: &spec::NetBackend,
    accelerator: &AcceleratorSpec,
    descriptors: &Descriptors,
) -> Result<Arc<dyn NetBackend>, AnyError> {
    let files = |slots: &[Slot]| -> Result<Vec<File>, Error> {
        slots
            .iter()
            .map(|&slot| Ok(File::from(descriptors.duplicate(slot)?)))
            .collect()
    };
    Ok(match spec {
        spec::NetBackend::Tap { queues, vhost, mtu } => Arc::new(Tap::new(OpenTap {
            queues: files(queues)?,
            vhost: files(vhost_for(accelerator, vhost))?,
            mtu: *mtu,
        })?),
        spec::NetBackend::Socket { connection } => {
            Arc::new(SocketNet::new(descriptors.duplicate(*connection)?)?)
        }
    })
}

/// The kernel's workers that a guest may use: on the software CPU none, because no page tracker sees what they write, and
/// decoded code would outlive its overwriting.
fn vhost_for<'a>(accelerator: &AcceleratorSpec, vhost: &'a [Slot]) -> &'a [Slot] {
    match accelerator {
        AcceleratorSpec::Kvm { .. } => vhost,
        AcceleratorSpec::Soft { .. } => &[],
    }
}

fn open_console(console: &Arc<Console>) -> Result<(ConsoleDevice, ConsoleControl), AnyError> {
    let stream = Box::new(PortStream::new(console.clone())?);
    let port = PortOptions {
        stream,
        name: String::new(),
        console: true,
    };
    let device = ConsoleDevice::new(vec![port], DEFAULT_WINDOW)?;
    let control = device.control();
    Ok((device, control))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::SoftEngine;

    #[test]
    fn the_software_cpu_gets_no_worker_whose_writes_it_would_miss() {
        let slots = [Slot(3), Slot(4)];
        let kvm = AcceleratorSpec::Kvm { device: Slot(0) };
        assert_eq!(vhost_for(&kvm, &slots), slots);
        for engine in [SoftEngine::Interpreter, SoftEngine::Translator] {
            assert!(vhost_for(&AcceleratorSpec::Soft { engine }, &slots).is_empty());
        }
    }
}
