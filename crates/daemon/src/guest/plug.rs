//! Plugging devices into a guest that runs, and what is left to do when they are out.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ostler_launch::porter::{Errand, Plugs};
use ostler_libvirt::{Code, RemoteError};
use ostler_vmm::control::GUEST_IS_BUSY;
use ostler_vmm::spec::NetModel;
use serde_json::{Value, json};

use super::cards::{self, Connection, Surroundings};
use super::{Attached, Control, ControlError, Outside, RunFiles, errand_of, open_image_of, streams};
use crate::domains::plan::{Card, Disk, Image, Share};

/// For so long a guest that is busy with a slot is asked again to let its device go, and how often.
const BUSY_TIME: Duration = Duration::from_secs(10);
const BUSY_STEP: Duration = Duration::from_millis(50);

/// An image that is open and locked, and its path.
pub type Medium = (File, PathBuf);

/// A guest that devices are plugged into.
pub struct Plug<'a> {
    control: &'a Control,
    /// The root port for a device that comes, by its bus; any that is free, if nobody says.
    port: Option<u8>,
}

/// What is taken back unless everything succeeds.
struct Undo<'a> {
    control: &'a Control,
    port: Option<u8>,
    steps: Vec<(&'static str, Value)>,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        for (command, arguments) in self.steps.drain(..).rev() {
            // What is not there needs no taking back.
            let _ = self.control.execute_with(command, arguments);
        }
    }
}

fn refused(error: ControlError) -> RemoteError {
    RemoteError::new(Code::OperationFailed, error.to_string())
}

/// Starts a porter with one errand, and returns the guest's end of its plug.
fn start_porter(errand: Errand) -> Result<OwnedFd, RemoteError> {
    let failed = |error: ostler_launch::Error| RemoteError::new(Code::OperationFailed, error.to_string());
    let mut plugs = Plugs::new();
    let plug = plugs.add(errand).map_err(failed)?;
    cards::reap(plugs.start().map_err(failed)?, "porter");
    Ok(plug)
}

impl Undo<'_> {
    /// Executes a command; `back` takes it back.
    fn step(
        &mut self,
        (command, arguments): (&str, Value),
        fd: Option<BorrowedFd<'_>>,
        back: (&'static str, Value),
    ) -> Result<(), RemoteError> {
        match fd {
            Some(fd) => self.control.execute_with_fd(command, arguments, fd),
            None => self.control.execute_with(command, arguments),
        }
        .map_err(refused)?;
        self.steps.push(back);
        Ok(())
    }

    /// Gives the guest's process a descriptor, which it knows by this name.
    fn name_fd(&mut self, name: &str, fd: BorrowedFd<'_>) -> Result<(), RemoteError> {
        let back = ("closefd", json!({ "fdname": name }));
        self.step(("getfd", json!({ "fdname": name })), Some(fd), back)
    }

    fn device(mut self, mut arguments: Value) -> Result<(), RemoteError> {
        if let Some(port) = self.port {
            arguments["bus"] = port_name(port).into();
        }
        self.control
            .execute_with("device_add", arguments)
            .map_err(refused)?;
        self.steps.clear();
        Ok(())
    }
}

/// What a guest's process calls the root port of this bus.
pub fn port_name(bus: u8) -> String {
    format!("rp{bus}")
}

impl<'a> Plug<'a> {
    /// A guest that is talked to by `control`.
    pub fn new(control: &'a Control) -> Self {
        let port = None;
        Self { control, port }
    }

    /// The same; a device that comes gets the root port of this bus.
    pub fn at(self, port: Option<u8>) -> Self {
        Self { port, ..self }
    }
}

impl Plug<'_> {
    fn undo(&self) -> Undo<'_> {
        Undo {
            control: self.control,
            port: self.port,
            steps: Vec::new(),
        }
    }

    /// Plugs a disk in as number `number`.
    pub fn disk(&self, disk: &Disk, outside: &Outside, number: u32) -> Result<Attached, RemoteError> {
        if disk.sata {
            let why = format!(
                "the disk '{}' cannot be plugged in: only virtio disks come and go",
                disk.target
            );
            return Err(RemoteError::new(Code::OperationUnsupported, why));
        }
        let none = || RemoteError::new(Code::NoSource, disk.target.clone());
        let (image, path) = open_image_of(disk, outside)?.ok_or_else(none)?;
        let attached = Attached::plugged(number);
        let node = attached.host_end();
        let mut undo = self.undo();
        undo.step(
            (
                "add-fd",
                json!({ "fdset-id": number, "opaque": path.to_string_lossy() }),
            ),
            Some(image.as_fd()),
            ("remove-fd", json!({ "fdset-id": number })),
        )?;
        let mut file = json!({
            "driver": if matches!(disk.image, Some(Image::Block(_))) { "host_device" } else { "file" },
            "filename": format!("/dev/fdset/{number}"),
            "read-only": disk.readonly,
        });
        if disk.direct {
            file["cache"] = json!({ "direct": true });
        }
        undo.step(
            (
                "blockdev-add",
                json!({ "driver": "raw", "node-name": node, "read-only": disk.readonly, "file": file }),
            ),
            None,
            ("blockdev-del", json!({ "node-name": node })),
        )?;
        undo.device(json!({
            "driver": "virtio-blk-pci",
            "id": attached.id,
            "drive": node,
            "serial": disk.serial,
        }))?;
        Ok(attached)
    }

    /// Opens what is to lie in a CD-ROM drive, and locks it.
    pub fn open_medium(&self, disk: &Disk, outside: &Outside) -> Result<Option<Medium>, RemoteError> {
        open_image_of(disk, outside)
    }

    /// Gives a drive another medium, or takes out the one that is there, and leaves its tray closed. A guest that has locked it is
    /// asked to open it, unless it is forced. `number` is that of nothing else that was plugged in.
    pub fn medium(
        &self,
        drive: &str,
        medium: Option<&Medium>,
        number: u32,
        force: bool,
    ) -> Result<(), RemoteError> {
        let run = |command: &str, arguments: Value| {
            let done = self.control.execute_with(command, arguments);
            done.map(drop).map_err(refused)
        };
        let Some((image, path)) = medium else {
            run("eject", json!({ "id": drive, "force": force }))?;
            return run("blockdev-close-tray", json!({ "id": drive }));
        };
        // The set of descriptors is for the hand-over only, whatever comes of it.
        let mut undo = self.undo();
        undo.step(
            (
                "add-fd",
                json!({ "fdset-id": number, "opaque": path.to_string_lossy() }),
            ),
            Some(image.as_fd()),
            ("remove-fd", json!({ "fdset-id": number })),
        )?;
        let change = json!({
            "id": drive,
            "filename": format!("/dev/fdset/{number}"),
            "format": "raw",
            "read-only-mode": "read-only",
            "force": force,
        });
        run("blockdev-change-medium", change)
    }

    /// Plugs a network card in as number `number`.
    pub fn card(&self, card: &Card, around: &Surroundings<'_>, number: u32) -> Result<Attached, RemoteError> {
        let connection = cards::connect(card, around)?;
        let attached = Attached::plugged(number).with_port(&connection);
        self.plug_card(card, connection, &attached)
            .inspect_err(|_| attached.delete_port())?;
        Ok(attached)
    }

    fn plug_card(&self, card: &Card, connection: Connection, attached: &Attached) -> Result<(), RemoteError> {
        if let Connection::Tap { tap, .. } = &connection
            && tap.whole
        {
            let why = "a card at a bridge of Open vSwitch in user space is there from the guest's start, or not at all";
            return Err(RemoteError::new(Code::OperationUnsupported, why));
        }
        let netdev = attached.host_end();
        let mut undo = self.undo();
        let mut names = Vec::new();
        let mut name_fd = |undo: &mut Undo<'_>, fd: BorrowedFd<'_>| -> Result<String, RemoteError> {
            let name = format!("{netdev}-{}", names.len());
            names.push(name.clone());
            undo.name_fd(&name, fd)?;
            Ok(name)
        };
        let backend = match &connection {
            Connection::Tap { tap, .. } => {
                let mut fds = |undo: &mut Undo<'_>, files: &[std::fs::File]| -> Result<String, RemoteError> {
                    let named: Result<Vec<_>, _> =
                        files.iter().map(|file| name_fd(undo, file.as_fd())).collect();
                    Ok(named?.join(":"))
                };
                let mut backend = json!({ "type": "tap", "id": netdev, "fds": fds(&mut undo, &tap.queues)? });
                if !tap.vhost.is_empty() {
                    backend["vhost"] = true.into();
                    backend["vhostfds"] = fds(&mut undo, &tap.vhost)?.into();
                }
                backend
            }
            Connection::Stream { socket, headers } => {
                let fd = name_fd(&mut undo, socket.as_fd())?;
                json!({ "type": "socket", "id": netdev, "fd": fd, "x-ostler-headers": headers })
            }
            Connection::VhostUser(plug) => {
                let fd = name_fd(&mut undo, plug.as_fd())?;
                json!({ "type": "vhost-user", "id": netdev, "plugfd": fd })
            }
            Connection::Plug(plug) => {
                let fd = name_fd(&mut undo, plug.as_fd())?;
                json!({ "type": "x-ostler-switch", "id": netdev, "fd": fd })
            }
        };
        undo.step(
            ("netdev_add", backend),
            None,
            ("netdev_del", json!({ "id": netdev })),
        )?;
        undo.device(json!({
            "driver": match card.model {
                NetModel::Virtio => "virtio-net-pci",
                NetModel::E1000e => "e1000e",
            },
            "id": attached.id,
            "netdev": netdev,
            "mac": card.mac.to_string(),
        }))
    }

    /// Plugs an entropy source in as number `number`.
    pub fn rng(&self, number: u32) -> Result<Attached, RemoteError> {
        let attached = Attached::plugged(number);
        self.undo()
            .device(json!({ "driver": "virtio-rng-pci", "id": attached.id }))?;
        Ok(attached)
    }

    /// Plugs a folder of the host in as number `number`. Its porter is a process of its own, which ends with the device.
    pub fn share(&self, share: &Share, number: u32) -> Result<Attached, RemoteError> {
        let attached = Attached::plugged(number);
        let plug = start_porter(errand_of(share)?)?;
        let name = attached.host_end();
        let mut undo = self.undo();
        undo.name_fd(&name, plug.as_fd())?;
        undo.device(json!({
            "driver": "vhost-user-fs-pci",
            "id": attached.id,
            "tag": share.tag,
            "x-ostler-readonly": share.readonly,
            "plugfd": name,
        }))?;
        Ok(attached)
    }

    /// Plugs a socket between guest and host in as number `number`. After an error nobody listens for it.
    pub fn vsock(&self, cid: u32, files: &RunFiles, number: u32) -> Result<Attached, RemoteError> {
        let attached = Attached::plugged(number);
        let path = files.vsock();
        let door = streams::listen(&path)?;
        let plugged = self.plug_vsock(cid, &door.into(), &path, &attached);
        plugged.inspect_err(|_| files.remove_vsock())?;
        Ok(attached)
    }

    fn plug_vsock(
        &self,
        cid: u32,
        door: &OwnedFd,
        path: &Path,
        attached: &Attached,
    ) -> Result<(), RemoteError> {
        let plug = start_porter(Errand::Vsock { path: path.into() })?;
        let (name, door_name) = (attached.host_end(), format!("{}-door", attached.id));
        let mut undo = self.undo();
        undo.name_fd(&name, plug.as_fd())?;
        undo.name_fd(&door_name, door.as_fd())?;
        undo.device(json!({
            "driver": "vhost-vsock-pci",
            "id": attached.id,
            "guest-cid": cid,
            "vhostfd": door_name,
            "plugfd": name,
        }))
    }

    /// Asks the guest to let a device go; again, for a while, as long as it is still busy taking it in: its kernel uses
    /// a device before its slot's indicator stops blinking.
    pub fn ask_out(&self, attached: &Attached) -> Result<(), RemoteError> {
        let end = Instant::now() + BUSY_TIME;
        loop {
            let asked = self
                .control
                .execute_with("device_del", json!({ "id": attached.id }));
            match asked {
                Err(ControlError::Refused(why)) if why == GUEST_IS_BUSY && Instant::now() < end => {
                    std::thread::sleep(BUSY_STEP);
                }
                asked => return asked.map(drop).map_err(refused),
            }
        }
    }

    /// Gives back what a device was made of, once the guest has let it go.
    pub fn clean_up(&self, attached: &Attached) {
        // What the guest was started with its process has let go of by itself.
        if let Some(number) = attached.plugged {
            let node = attached.host_end();
            // It has one of these, by its kind.
            for (command, arguments) in [
                ("blockdev-del", json!({ "node-name": node })),
                ("remove-fd", json!({ "fdset-id": number })),
                ("netdev_del", json!({ "id": node })),
            ] {
                let _ = self.control.execute_with(command, arguments);
            }
        }
        attached.delete_port();
    }
}
