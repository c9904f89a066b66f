//! Devices that come and go while a guest runs, and in its definition.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::domain::{
    Common, Devices, Disk, DiskDevice, Filesystem, Interface, MemoryDevice, MemoryKind, Vsock,
};
use serde_json::{Value, json};

use super::definition::{Change, Definition, Seed};
use super::domain::{Domain, Live};
use super::lifecycle::{refused, requested_size};
use super::plan::{Plan, has_places};
use super::{Domains, Impact};
use crate::guest::cards::Surroundings;
use crate::guest::{Attached, Control, Plug, port_name};

/// How long a client waits for a guest to let a device go; it may go later, too. Linux blinks for five seconds first.
const PATIENCE: Duration = Duration::from_secs(10);

/// For so long nothing comes into a slot that has lost its device: Linux looks at nothing there for a second.
const REST: Duration = Duration::from_secs(2);

/// A device of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device<'a> {
    Disk(&'a Disk),
    Card(&'a Interface),
    Share(&'a Filesystem),
    Vsock(&'a Vsock),
    Rng,
    Memory(&'a MemoryDevice),
    /// Of a kind that neither comes nor goes.
    Fixed(&'static str),
}

/// All devices with their aliases.
fn all(devices: &Devices) -> Vec<(&str, Device<'_>)> {
    let named = each(devices).into_iter();
    named
        .filter_map(|(common, device)| Some((common.alias.as_deref()?, device)))
        .collect()
}

/// All devices.
fn each(devices: &Devices) -> Vec<(&Common, Device<'_>)> {
    let mut all: Vec<(&Common, Device<'_>)> = Vec::new();
    all.extend(devices.disks.iter().map(|d| (&d.common, Device::Disk(d))));
    all.extend(devices.interfaces.iter().map(|d| (&d.common, Device::Card(d))));
    all.extend(devices.rngs.iter().map(|d| (&d.common, Device::Rng)));
    all.extend(devices.filesystems.iter().map(|d| (&d.common, Device::Share(d))));
    all.extend(devices.memories.iter().map(|d| (&d.common, Device::Memory(d))));
    all.extend(devices.vsock.iter().map(|d| (&d.common, Device::Vsock(d))));
    for (kind, characters) in [
        ("serial", &devices.serials),
        ("console", &devices.consoles),
        ("channel", &devices.channels),
    ] {
        all.extend(characters.iter().map(|d| (&d.common, Device::Fixed(kind))));
    }
    all.extend(
        devices
            .memballoon
            .iter()
            .map(|d| (&d.common, Device::Fixed("memballoon"))),
    );
    all.extend(
        devices
            .watchdog
            .iter()
            .map(|d| (&d.common, Device::Fixed("watchdog"))),
    );
    all.extend(devices.videos.iter().map(|d| (&d.common, Device::Fixed("video"))));
    all
}

/// The root port, by its bus, for a device that is plugged in: the one of its address. `None` for any that is free, in guests whose
/// devices are not where their addresses say.
fn port_for(control: &Control, after: &Definition, alias: &str) -> Result<Option<u8>, RemoteError> {
    if !has_places(after) {
        return Ok(None);
    }
    let devices = each(&after.devices);
    let mut named = devices.iter().map(|(common, _)| common);
    let device = named.find(|common| common.alias.as_deref() == Some(alias));
    let Some(address) = device.and_then(|common| common.address) else {
        return Ok(None);
    };
    if address.bus == 0 {
        return Err(cannot(format!(
            "a device that comes while the guest runs is behind a root port: its <address> cannot be {address}"
        )));
    }
    let there = control
        .execute_with("qom-list", json!({ "path": "/machine/peripheral" }))
        .map_err(refused)?;
    let name = port_name(address.bus);
    match there
        .as_array()
        .is_some_and(|there| there.iter().any(|object| object["name"] == *name))
    {
        true => Ok(Some(address.bus)),
        false => Err(cannot(format!(
            "the guest that runs has no root port for the <address> {address}: take a device out, or start it again with more of them"
        ))),
    }
}

/// Whether the device of this alias may go while the guest runs: it came while it ran, or it is of a kind that may come and behind a
/// root port from the start.
fn may_go(definition: &Definition, alias: &str, attached: &Attached) -> bool {
    let devices = each(&definition.devices);
    let is_it = |(common, _): &&(&Common, Device<'_>)| common.alias.as_deref() == Some(alias);
    let behind_port = devices.iter().find(is_it).is_some_and(|(common, device)| {
        !matches!(device, Device::Memory(_) | Device::Fixed(_))
            && common.address.is_some_and(|address| address.bus > 0)
    });
    attached.plugged.is_some() || behind_port && has_places(definition)
}

/// The first device of `some` that `others` do not have.
fn more<'a>(some: &'a Devices, others: &Devices) -> Option<(&'a str, Device<'a>)> {
    let known = all(others);
    let is_new = |(alias, _): &(&str, Device<'_>)| !known.iter().any(|(other, _)| other == alias);
    all(some).into_iter().find(is_new)
}

/// Waits until a guest sees what comes into the slot of a root port.
fn wait_for_port(domain: &Domain, bus: u8) -> Result<(), RemoteError> {
    let emptied = domain.with_live(|live| *live.emptied.get(&bus).unwrap_or(&live.known_since))?;
    std::thread::sleep(REST.saturating_sub(emptied.elapsed()));
    Ok(())
}

fn cannot(why: impl Into<String>) -> RemoteError {
    RemoteError::new(Code::OperationUnsupported, why)
}

impl Domains {
    /// Adds a device, takes one away or changes one: in the guest that runs, in its definition, or in both. `force`: even if the
    /// guest has locked a tray.
    pub fn change_device(
        self: &Arc<Self>,
        domain: &Arc<Domain>,
        change: Change,
        device: &str,
        (flags, force): (u32, bool),
    ) -> Result<(), RemoteError> {
        let _job = domain.job();
        let seed = Seed::new()?;
        let (impact, config) = {
            let state = domain.state();
            let impact = Impact::of(flags, &state)?;
            (impact, state.persistent.clone().filter(|_| impact.config))
        };
        // Everything that can be wrong with the document is found before anything happens.
        let config = config
            .map(|definition| definition.change(change, device, &seed))
            .transpose()?;
        if impact.live {
            self.change_running(domain, change, (device, force), &seed)?;
        }
        match config {
            Some(config) => self.keep_config(domain, config),
            None => Ok(()),
        }
    }

    fn change_running(
        self: &Arc<Self>,
        domain: &Arc<Domain>,
        change: Change,
        (device, force): (&str, bool),
        seed: &Seed,
    ) -> Result<(), RemoteError> {
        let devices = domain.devices();
        let (control, before) = domain.with_live(|live| (live.control.clone(), live.definition.clone()))?;
        let after = before.change(change, device, seed)?;
        match change {
            Change::Attach => self.plug(domain, &control, &before, after),
            Change::Update => self.update(domain, &control, &before, after, force),
            Change::Detach | Change::DetachAlias => {
                let alias = self.ask_out(domain, &control, &before, &after)?;
                // Whoever takes it out of the guest's devices has to get them.
                drop(devices);
                domain.wait_for_device(&alias, PATIENCE);
                Ok(())
            }
        }
    }

    fn plug(
        &self,
        domain: &Domain,
        control: &Control,
        before: &Definition,
        after: Definition,
    ) -> Result<(), RemoteError> {
        let Some((alias, device)) = more(&after.devices, &before.devices) else {
            return Err(cannot("devices of this kind cannot be plugged in"));
        };
        let alias = alias.to_owned();
        let number = domain.with_live(|live| {
            live.next_plug += 1;
            live.next_plug - 1
        })?;
        let place = match device {
            // Refused below.
            Device::Fixed(_) | Device::Memory(_) => None,
            _ => port_for(control, &after, &alias)?,
        };
        if let Some(bus) = place {
            wait_for_port(domain, bus)?;
        }
        let plug = Plug::new(control).at(place);
        let none = || RemoteError::new(Code::Internal, format!("the device '{alias}' is in no plan"));
        let attached = match device {
            Device::Fixed(kind) => {
                return Err(cannot(format!(
                    "a <{kind}> cannot be plugged in while the guest runs"
                )));
            }
            Device::Memory(_) => {
                return Err(cannot(
                    "a <memory> cannot be plugged in while the guest runs: it can be asked to have more of the virtio-mem that it has",
                ));
            }
            Device::Rng => plug.rng(number)?,
            Device::Disk(_) => {
                let plan = Plan::of(&after)?;
                let disk = plan
                    .disks
                    .iter()
                    .find(|disk| disk.alias == alias)
                    .ok_or_else(none)?;
                plug.disk(disk, &self.outside, number)?
            }
            Device::Card(_) => {
                let plan = Plan::of(&after)?;
                let card = plan
                    .cards
                    .iter()
                    .find(|card| card.alias == alias)
                    .ok_or_else(none)?;
                let around = Surroundings {
                    guest: &after.name,
                    cpus: plan.vcpus,
                    vhost: plan.kvm,
                    outside: &self.outside,
                };
                let attached = plug.card(card, &around, number)?;
                if !card.link {
                    set_link(control, &attached, false)?;
                }
                attached
            }
            Device::Share(_) => {
                let plan = Plan::of(&after)?;
                let share = plan
                    .shares
                    .iter()
                    .find(|share| share.alias == alias)
                    .ok_or_else(none)?;
                plug.share(share, number)?
            }
            Device::Vsock(_) => {
                let plan = Plan::of(&after)?;
                let cid = self
                    .cids
                    .take(&domain.uuid, plan.vsock.as_ref())?
                    .ok_or_else(none)?;
                let files = self.files(&domain.uuid);
                let plugged = plug.vsock(cid, &files, number);
                let attached = plugged.inspect_err(|_| self.cids.give_back(&domain.uuid))?;
                domain.with_live(|live| live.cid = Some(cid))?;
                attached
            }
        };
        domain.with_live(|live| live.devices.insert(alias.clone(), attached))?;
        self.keep_live(domain, after)?;
        self.events.device_added(&domain.to_wire(), &alias);
        Ok(())
    }

    /// Changes what can be changed: whether a card's cable is in, what is in a CD-ROM drive, and how much memory a guest is to have.
    fn update(
        &self,
        domain: &Domain,
        control: &Control,
        before: &Definition,
        after: Definition,
        force: bool,
    ) -> Result<(), RemoteError> {
        let old = all(&before.devices);
        // A console has the alias of its serial port.
        let changed = all(&after.devices)
            .into_iter()
            .find(|device| !old.contains(device));
        let Some((alias, device)) = changed else {
            return self.keep_live(domain, after);
        };
        let was = old.iter().find(|(other, _)| *other == alias).map(|(_, was)| *was);
        match (was, device) {
            (Some(Device::Card(was)), Device::Card(card)) => {
                let mut same = was.clone();
                same.link = card.link;
                // A dump of the guest names the interface that it was given.
                let port = domain.with_live(|live| live.ports().get(alias).cloned())?;
                if card.target == port {
                    same.target.clone_from(&card.target);
                }
                if same != *card {
                    return Err(cannot(format!(
                        "of the <interface> '{}' only the <link> can be changed while the guest runs",
                        card.mac
                    )));
                }
                let attached = domain.with_live(|live| live.devices.get(alias).cloned())?;
                let attached =
                    attached.ok_or_else(|| cannot(format!("the device '{alias}' is not known")))?;
                set_link(control, &attached, card.link)?;
            }
            (Some(Device::Disk(was)), Device::Disk(disk)) if disk.device == DiskDevice::Cdrom => {
                let mut same = was.clone();
                same.source.clone_from(&disk.source);
                if same != *disk {
                    return Err(cannot(format!(
                        "of the CD-ROM drive '{}' only the medium can be changed while the guest runs; change the drive with --config",
                        disk.target
                    )));
                }
                self.change_medium(domain, control, &after, alias, force)?;
            }
            (Some(Device::Memory(was)), Device::Memory(memory)) => {
                let only =
                    || cannot("of a <memory> only the <requested> size can be changed while the guest runs");
                let (MemoryKind::Pluggable { block, .. }, MemoryKind::Pluggable { requested, .. }) =
                    (&was.kind, &memory.kind)
                else {
                    return Err(only());
                };
                let mut same = was.clone();
                same.kind = MemoryKind::Pluggable {
                    block: *block,
                    requested: *requested,
                };
                if same != *memory {
                    return Err(only());
                }
                let set = control.execute_with("qom-set", requested_size(*requested));
                set.map_err(refused)?;
            }
            (_, Device::Disk(disk)) => {
                return Err(cannot(format!(
                    "the disk '{}' cannot be changed while the guest runs; change it with --config",
                    disk.target
                )));
            }
            _ => {
                return Err(cannot(format!(
                    "the device '{alias}' cannot be changed while the guest runs"
                )));
            }
        }
        self.keep_live(domain, after)
    }

    /// Asks the guest to let a device go, and returns its alias.
    fn ask_out(
        &self,
        domain: &Domain,
        control: &Control,
        before: &Definition,
        after: &Definition,
    ) -> Result<String, RemoteError> {
        let Some((alias, _)) = more(&before.devices, &after.devices) else {
            return Err(cannot("devices of this kind cannot be taken out"));
        };
        let attached = domain.with_live(|live| live.devices.get(alias).cloned())?;
        match attached.filter(|attached| may_go(before, alias, attached)) {
            Some(attached) => {
                Plug::new(control).ask_out(&attached)?;
                Ok(alias.into())
            }
            None => Err(cannot(format!(
                "the device '{alias}' stays while the guest runs; take it out with --config"
            ))),
        }
    }

    /// The guest let a device go: on the thread that listens to it, which must not wait.
    pub(super) fn device_gone_soon(self: &Arc<Self>, domain: &Arc<Domain>, run: i32, id: String) {
        let (domains, domain) = (self.clone(), domain.clone());
        let take_leave = move || domains.device_gone(&domain, run, &id);
        if let Err(error) = std::thread::Builder::new()
            .name("unplug".into())
            .spawn(take_leave)
        {
            crate::log::note!("a device that is gone is still listed: {error}");
        }
    }

    fn device_gone(&self, domain: &Domain, run: i32, id: &str) {
        let _devices = domain.devices();
        let found = domain.with_live(|live| {
            let is_it = |(_, attached): &(&String, &Attached)| attached.id == id;
            let alias = live.devices.iter().find(is_it).map(|(alias, _)| alias.clone());
            let alias = alias.filter(|_| live.id == run)?;
            let attached = live.devices.remove(&alias)?;
            let devices = each(&live.definition.devices);
            let mut its = devices
                .iter()
                .filter(|(common, _)| common.alias.as_ref() == Some(&alias));
            if let Some(address) = its.find_map(|(common, _)| common.address) {
                live.emptied.insert(address.bus, Instant::now());
            }
            Some((alias, attached, live.control.clone(), live.definition.clone()))
        });
        let Ok(Some((alias, attached, control, definition))) = found else {
            self.half_plugged_gone(domain, run, id);
            return;
        };
        Plug::new(&control).clean_up(&attached);
        let vsock = definition.devices.vsock.as_ref();
        let has_other = vsock.is_some_and(|vsock| vsock.common.alias.as_deref() != Some(&*alias));
        if !has_other {
            // It was the vsock, or there is none: what a vsock had is nobody's.
            self.files(&domain.uuid).remove_vsock();
            self.cids.give_back(&domain.uuid);
            let _ = domain.with_live(|live| live.cid = None);
        }
        let without = Seed::new().and_then(|seed| definition.change(Change::DetachAlias, &alias, &seed));
        if let Err(error) = without.and_then(|without| self.keep_live(domain, without)) {
            crate::log::note!("the device {alias} that is gone is still listed: {error}");
        }
        self.events.device_removed(&domain.to_wire(), &alias);
        domain.tell_end();
    }

    /// Takes leave of devices that went while no daemon was there.
    pub(super) fn find_devices_gone(&self, domain: &Domain, run: i32) {
        let live = domain.with_live(|live| {
            let Live {
                control,
                devices,
                definition,
                ..
            } = live;
            (control.clone(), devices.clone(), definition.clone())
        });
        let Ok((control, devices, definition)) = live else {
            return;
        };
        let Ok(Value::Array(there)) =
            control.execute_with("qom-list", json!({ "path": "/machine/peripheral" }))
        else {
            return;
        };
        self.give_up_half_plugged(domain, &control, &there);
        self.strike_half_kept(domain, &there);
        let movable = devices
            .iter()
            .filter(|(alias, attached)| may_go(&definition, alias, attached));
        for (_, attached) in movable {
            if !there.iter().any(|device| device["name"] == *attached.id) {
                self.device_gone(domain, run, &attached.id);
            }
        }
    }
}

impl Domains {
    /// Strikes devices out of what the guest is said to be that were written there and not yet into its status: of those a daemon
    /// was about to tell, or not to tell any more.
    fn strike_half_kept(&self, domain: &Domain, there: &[Value]) {
        let known = domain.with_live(|live| (live.definition.clone(), live.devices.clone()));
        let Ok((definition, devices)) = known else { return };
        // A status by an earlier version has of entropy sources only those that were plugged in.
        let is_built = |device: &&Value| {
            device["name"].as_str().is_some_and(|name| {
                name.starts_with("rng") && !devices.values().any(|attached| attached.id == name)
            })
        };
        let mut built = there.iter().filter(is_built).count();
        let mut is_half = |(alias, device): &(&str, Device<'_>)| {
            let counts = match device {
                Device::Disk(_) | Device::Card(_) | Device::Share(_) | Device::Vsock(_) => true,
                Device::Rng => built == 0,
                Device::Fixed(_) | Device::Memory(_) => false,
            };
            let is_known = devices.contains_key(*alias);
            if *device == Device::Rng && !is_known {
                built = built.saturating_sub(1);
            }
            counts && !is_known
        };
        let halves: Vec<String> = all(&definition.devices)
            .into_iter()
            .filter(&mut is_half)
            .map(|(alias, _)| alias.to_owned())
            .collect();
        let mut rest = definition;
        for alias in &halves {
            crate::log::note!("{alias} is taken back: it was plugged in by half");
            let without = Seed::new().and_then(|seed| rest.change(Change::DetachAlias, alias, &seed));
            match without {
                Ok(without) => rest = Arc::new(without),
                Err(error) => crate::log::note!("{alias} stays listed: {error}"),
            }
        }
        if !halves.is_empty()
            && let Err(error) = self.keep_live(domain, (*rest).clone())
        {
            crate::log::note!("what was taken back stays listed: {error}");
        }
    }

    /// The guest let a device go that is none of its definition's.
    fn half_plugged_gone(&self, domain: &Domain, run: i32, id: &str) {
        let number = id.strip_prefix("hot").and_then(|number| number.parse().ok());
        let control = domain.with_live(|live| (live.id == run).then(|| live.control.clone()));
        if let (Some(number), Ok(Some(control))) = (number, control) {
            Plug::new(&control).clean_up(&Attached::plugged(number));
        }
    }

    /// Takes back what a daemon left that was killed while it plugged something in: nobody was told that it is there. A guest may keep
    /// the device until it lets it go.
    fn give_up_half_plugged(&self, domain: &Domain, control: &Control, there: &[Value]) {
        let next = domain.with_live(|live| {
            let is_known = |number: u32| live.devices.values().any(|device| device.plugged == Some(number));
            (!is_known(live.next_plug)).then_some(live.next_plug)
        });
        let Ok(Some(number)) = next else { return };
        let (attached, plug) = (Attached::plugged(number), Plug::new(control));
        if !there.iter().any(|device| device["name"] == *attached.id) {
            // Its image or back end may be there alone.
            plug.clean_up(&attached);
            return;
        }
        crate::log::note!("{} is taken back: it was plugged in by half", attached.id);
        let _ = domain.with_live(|live| live.next_plug = number + 1);
        if let Err(error) = plug.ask_out(&attached) {
            crate::log::note!("{} stays: {error}", attached.id);
        }
    }
}

fn set_link(control: &Control, attached: &Attached, up: bool) -> Result<(), RemoteError> {
    let arguments = json!({ "name": attached.id, "up": up });
    control
        .execute_with("set_link", arguments)
        .map(drop)
        .map_err(refused)
}
