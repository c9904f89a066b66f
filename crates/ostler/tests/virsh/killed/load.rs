//! A client that never rests, and knows what it was told.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::*;

use super::client::{Client, Failed};
use super::look::{self, Kind, Object, Objects, State};

/// The flag of a change of the definition that lasts (`VIR_DOMAIN_AFFECT_CONFIG`).
const CONFIG: u32 = 2;
/// The flag of a change of the guest that runs (`VIR_DOMAIN_AFFECT_LIVE`).
const LIVE: u32 = 1;
/// What is plugged in, and how many of it: one that a daemon left half there keeps its slot, as this guest lets nothing go.
const RNG: &str = "<rng model='virtio'><backend model='random'>/dev/urandom</backend></rng>";
const MOST_PLUGGED: usize = 2;
/// The kind of text that is a title (`VIR_DOMAIN_METADATA_TITLE`).
const TITLE: i32 = 1;
/// Starting a pool: its folder is made first.
const WITH_BUILD: u32 = 1;

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    /// One of `count` numbers from 0 on.
    pub fn below(&mut self, count: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((value ^ (value >> 31)) % count as u64) as usize
    }

    fn uuid(&mut self) -> Uuid {
        std::array::from_fn(|_| self.below(256) as u8)
    }
}

/// One client's work. Nobody else has to do with its objects.
pub struct Load {
    /// How the names of its objects begin.
    pub prefix: String,
    random: Random,
    /// What it was told.
    pub objects: Objects,
    /// What there will be if the call is done that was not answered.
    pub on_its_way: Option<Objects>,
    /// What that call is.
    pub call: String,
    /// Calls that were answered.
    pub answered: usize,
    kernel: String,
    pools: String,
    next: usize,
}

/// As definitions have it.
fn text_of(uuid: &Uuid) -> String {
    let text = look::name_of(uuid);
    let parts = [
        &text[..8],
        &text[8..12],
        &text[12..16],
        &text[16..20],
        &text[20..],
    ];
    parts.join("-")
}

impl Load {
    /// With a kernel for guests, and a folder for pools.
    pub fn new(prefix: String, seed: u64, kernel: &Path, pools: &Path) -> Self {
        Self {
            prefix,
            random: Random(seed),
            objects: Objects::new(),
            on_its_way: None,
            call: String::new(),
            answered: 0,
            kernel: kernel.display().to_string(),
            pools: pools.display().to_string(),
            next: 0,
        }
    }

    /// Calls and calls, until the daemon is gone, and counts the answers.
    pub fn run(&mut self, socket: &Path, answered: &AtomicUsize) {
        let called = Client::connect(socket).and_then(|mut client| {
            loop {
                self.one(&mut client)?;
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        match called {
            Err(Failed::Gone) => {}
            Err(Failed::Refused(why)) => panic!("{} was refused: {why}", self.call),
            Ok(()) => {}
        }
    }

    fn one(&mut self, client: &mut Client) -> Result<(), Failed> {
        self.next += 1;
        let kinds = [
            Kind::Guest,
            Kind::Guest,
            Kind::Guest,
            Kind::Network,
            Kind::Pool,
            Kind::Volume,
            Kind::Secret,
        ];
        let kind = kinds[self.random.below(kinds.len())];
        let names: Vec<_> = self.objects.keys().filter(|(of, _)| *of == kind).collect();
        let chosen = self.random.below(names.len() + 2);
        let name = names.get(chosen).map(|(_, name)| name.clone());
        match (kind, name) {
            (Kind::Guest, Some(name)) => self.change_guest(client, &name),
            (Kind::Guest, None) => self.define_guest(client, None),
            (Kind::Network, Some(name)) => self.change_network(client, &name),
            (Kind::Network, None) => self.define_network(client, None),
            (Kind::Pool, Some(name)) => self.change_pool(client, &name),
            (Kind::Pool, None) => self.define_pool(client, None),
            (Kind::Volume, Some(name)) => self.change_volume(client, &name),
            (Kind::Volume, None) => self.create_volume(client),
            (Kind::Secret, Some(name)) => self.change_secret(client, &name),
            (Kind::Secret, None) => self.define_secret(client, None),
        }
    }

    /// Calls for a change that makes the objects `after`.
    fn call<P: Procedure>(
        &mut self,
        client: &mut Client,
        args: &P::Args,
        what: &str,
        after: Objects,
    ) -> Result<(), Failed> {
        self.call = format!("{} of {what}", P::NAME);
        self.on_its_way = Some(after);
        client.call::<P>(args)?;
        self.objects = self.on_its_way.take().unwrap_or_default();
        self.answered += 1;
        Ok(())
    }

    /// What there is with `object` in place of the one of that name.
    fn with(&self, kind: Kind, name: &str, object: Object) -> Objects {
        let mut after = self.objects.clone();
        after.insert((kind, name.into()), object);
        after
    }

    fn without(&self, kind: Kind, name: &str) -> Objects {
        let mut after = self.objects.clone();
        after.remove(&(kind, name.to_owned()));
        after
    }

    fn get(&self, kind: Kind, name: &str) -> Object {
        self.objects[&(kind, name.to_owned())].clone()
    }

    /// A new object's, or the one of that name.
    fn name_and_object(&mut self, kind: Kind, name: Option<&str>) -> (String, Object) {
        match name {
            Some(name) => (name.into(), self.get(kind, name)),
            None => {
                let object = Object {
                    uuid: self.random.uuid(),
                    autostart: false,
                    mark: String::new(),
                    state: State::Off,
                    plugged: 0,
                    text: None,
                };
                (format!("{}{}", self.prefix, self.next), object)
            }
        }
    }

    /// Reads what was told to be so.
    fn read(&mut self, kind: Kind, name: &str, seen: Object) {
        if let Some(object) = self.objects.get_mut(&(kind, name.to_owned())) {
            assert!(object.is(&seen), "{object:?} is {seen:?}");
            object.text = seen.text;
        }
    }

    fn read_guest(&mut self, client: &mut Client, guest: &Domain) -> Result<(), Failed> {
        let seen = look::guest(client, guest)?;
        self.read(Kind::Guest, &guest.name, seen);
        Ok(())
    }

    fn define_guest(&mut self, client: &mut Client, name: Option<&str>) -> Result<(), Failed> {
        let (name, mut object) = self.name_and_object(Kind::Guest, name);
        let xml = format!(
            "<domain type='qemu'><name>{name}</name><uuid>{}</uuid><title>0</title><description>{}</description>\
             <memory unit='MiB'>16</memory><os><type>hvm</type><kernel>{}</kernel></os></domain>",
            text_of(&object.uuid),
            self.next,
            self.kernel
        );
        (object.mark, object.text) = (format!("{} 0", self.next), None);
        let guest = Domain {
            name: name.clone(),
            uuid: object.uuid,
            id: -1,
        };
        let after = self.with(Kind::Guest, &name, object);
        self.call::<DomainDefineXml>(client, &xml, &name, after)?;
        self.read_guest(client, &guest)
    }

    fn change_guest(&mut self, client: &mut Client, name: &str) -> Result<(), Failed> {
        let mut object = self.get(Kind::Guest, name);
        let guest = Domain {
            name: name.into(),
            uuid: object.uuid,
            id: -1,
        };
        match (self.random.below(8), object.state) {
            (0, _) => self.define_guest(client, Some(name)),
            (1, _) => {
                object.autostart = !object.autostart;
                let args = SetAutostartArgs {
                    domain: guest,
                    autostart: object.autostart.into(),
                };
                let after = self.with(Kind::Guest, name, object);
                self.call::<DomainSetAutostart>(client, &args, name, after)
            }
            (2, _) => {
                let title = self.next.to_string();
                let (description, _) = object.mark.split_once(' ').unwrap();
                (object.mark, object.text) = (format!("{description} {title}"), None);
                let args = SetMetadataArgs {
                    domain: guest.clone(),
                    kind: TITLE,
                    metadata: Some(title),
                    key: None,
                    uri: None,
                    flags: CONFIG,
                };
                let after = self.with(Kind::Guest, name, object);
                self.call::<DomainSetMetadata>(client, &args, name, after)?;
                self.read_guest(client, &guest)
            }
            (3, State::Off) => {
                let new = format!("{}{}", self.prefix, self.next);
                let mut after = self.without(Kind::Guest, name);
                object.text = None;
                after.insert((Kind::Guest, new.clone()), object);
                let args = RenameArgs {
                    domain: guest.clone(),
                    name: Some(new.clone()),
                    flags: 0,
                };
                self.call::<DomainRename>(client, &args, name, after)?;
                self.read_guest(client, &Domain { name: new, ..guest })
            }
            (4, State::Off) => {
                let after = self.without(Kind::Guest, name);
                self.call::<DomainUndefine>(client, &guest, name, after)
            }
            (_, State::Off) => {
                object.state = State::Running;
                let after = self.with(Kind::Guest, name, object);
                self.call::<DomainCreate>(client, &guest, name, after)
            }
            (5, _) if object.plugged < MOST_PLUGGED => {
                object.plugged += 1;
                let args = DeviceFlagsArgs {
                    domain: guest,
                    xml: RNG.into(),
                    flags: LIVE,
                };
                let after = self.with(Kind::Guest, name, object);
                self.call::<DomainAttachDeviceFlags>(client, &args, name, after)
            }
            (3 | 4, state) => {
                object.state = match state {
                    State::Paused => State::Running,
                    _ => State::Paused,
                };
                let after = self.with(Kind::Guest, name, object);
                match state {
                    State::Paused => self.call::<DomainResume>(client, &guest, name, after),
                    _ => self.call::<DomainSuspend>(client, &guest, name, after),
                }
            }
            (_, _) => {
                object.state = State::Off;
                object.plugged = 0;
                let after = self.with(Kind::Guest, name, object);
                self.call::<DomainDestroy>(client, &guest, name, after)
            }
        }
    }

    fn define_network(&mut self, client: &mut Client, name: Option<&str>) -> Result<(), Failed> {
        let (name, mut object) = self.name_and_object(Kind::Network, name);
        let mtu = 1000 + self.next % 8000;
        // Names of bridges have 15 bytes at most.
        let (_, short) = name.split_once('-').unwrap();
        let xml = format!(
            "<network><name>{name}</name><uuid>{}</uuid><bridge name='br{short}'/><mtu size='{mtu}'/></network>",
            text_of(&object.uuid),
        );
        (object.mark, object.text) = (mtu.to_string(), None);
        let network = Network {
            name: name.clone(),
            uuid: object.uuid,
        };
        let after = self.with(Kind::Network, &name, object);
        self.call::<NetworkDefineXml>(client, &xml, &name, after)?;
        let seen = look::network(client, &network)?;
        self.read(Kind::Network, &name, seen);
        Ok(())
    }

    fn change_network(&mut self, client: &mut Client, name: &str) -> Result<(), Failed> {
        let mut object = self.get(Kind::Network, name);
        let network = Network {
            name: name.into(),
            uuid: object.uuid,
        };
        match (self.random.below(6), object.state) {
            (0, _) => self.define_network(client, Some(name)),
            (1, _) => {
                object.autostart = !object.autostart;
                let args = NetworkSetAutostartArgs {
                    network,
                    autostart: object.autostart.into(),
                };
                let after = self.with(Kind::Network, name, object);
                self.call::<NetworkSetAutostart>(client, &args, name, after)
            }
            (2, State::Off) => {
                let after = self.without(Kind::Network, name);
                self.call::<NetworkUndefine>(client, &network, name, after)
            }
            (_, State::Off) => {
                object.state = State::Running;
                let after = self.with(Kind::Network, name, object);
                self.call::<NetworkCreate>(client, &network, name, after)
            }
            _ => {
                object.state = State::Off;
                let after = self.with(Kind::Network, name, object);
                self.call::<NetworkDestroy>(client, &network, name, after)
            }
        }
    }

    fn define_pool(&mut self, client: &mut Client, name: Option<&str>) -> Result<(), Failed> {
        let (name, mut object) = self.name_and_object(Kind::Pool, name);
        let mode = format!("0{:03o}", 0o700 + self.next % 0o100);
        let xml = format!(
            "<pool type='dir'><name>{name}</name><uuid>{}</uuid><target><path>{}/{name}</path>\
             <permissions><mode>{mode}</mode></permissions></target></pool>",
            text_of(&object.uuid),
            self.pools
        );
        (object.mark, object.text) = (mode, None);
        let pool = StoragePool {
            name: name.clone(),
            uuid: object.uuid,
        };
        let after = self.with(Kind::Pool, &name, object);
        let args = XmlFlagsArgs { xml, flags: 0 };
        self.call::<StoragePoolDefineXml>(client, &args, &name, after)?;
        let seen = look::pool(client, &pool)?;
        self.read(Kind::Pool, &name, seen);
        Ok(())
    }

    fn change_pool(&mut self, client: &mut Client, name: &str) -> Result<(), Failed> {
        let mut object = self.get(Kind::Pool, name);
        let pool = StoragePool {
            name: name.into(),
            uuid: object.uuid,
        };
        match (self.random.below(4), object.state) {
            (0, _) => self.define_pool(client, Some(name)),
            (1, _) => {
                object.autostart = !object.autostart;
                let args = PoolAutostartArgs {
                    pool,
                    autostart: object.autostart.into(),
                };
                let after = self.with(Kind::Pool, name, object);
                self.call::<StoragePoolSetAutostart>(client, &args, name, after)
            }
            (2, State::Off) => {
                let after = self.without(Kind::Pool, name);
                self.call::<StoragePoolUndefine>(client, &pool, name, after)
            }
            (_, State::Off) => {
                object.state = State::Running;
                let after = self.with(Kind::Pool, name, object);
                let flags = WITH_BUILD;
                self.call::<StoragePoolCreate>(client, &PoolFlagsArgs { pool, flags }, name, after)
            }
            _ => {
                object.state = State::Off;
                let after = self.with(Kind::Pool, name, object);
                self.call::<StoragePoolDestroy>(client, &pool, name, after)
            }
        }
    }

    fn create_volume(&mut self, client: &mut Client) -> Result<(), Failed> {
        let (name, mut object) = self.name_and_object(Kind::Volume, None);
        let pool = client.call::<StoragePoolLookupByName>(&"default".to_owned())?;
        let size = self.next * 512;
        let xml = format!(
            "<volume><name>{name}</name><capacity>{size}</capacity><allocation>0</allocation></volume>"
        );
        (object.mark, object.uuid) = (size.to_string(), Uuid::default());
        let after = self.with(Kind::Volume, &name, object);
        let args = VolumeCreateArgs { pool, xml, flags: 0 };
        self.call::<StorageVolCreateXml>(client, &args, &name, after)
    }

    fn change_volume(&mut self, client: &mut Client, name: &str) -> Result<(), Failed> {
        let mut object = self.get(Kind::Volume, name);
        let pool = client.call::<StoragePoolLookupByName>(&"default".to_owned())?;
        let args = VolumeByNameArgs {
            pool,
            name: name.into(),
        };
        let volume = client.call::<StorageVolLookupByName>(&args)?;
        match self.random.below(2) {
            0 => {
                let capacity = object.mark.parse::<u64>().unwrap() + 512;
                object.mark = capacity.to_string();
                let after = self.with(Kind::Volume, name, object);
                let flags = 0;
                let args = VolumeResizeArgs {
                    volume,
                    capacity,
                    flags,
                };
                self.call::<StorageVolResize>(client, &args, name, after)
            }
            _ => {
                let after = self.without(Kind::Volume, name);
                let flags = 0;
                self.call::<StorageVolDelete>(client, &VolumeFlagsArgs { volume, flags }, name, after)
            }
        }
    }

    fn define_secret(&mut self, client: &mut Client, name: Option<&str>) -> Result<(), Failed> {
        let (_, mut object) = self.name_and_object(Kind::Secret, name);
        let name = look::name_of(&object.uuid);
        let xml = format!(
            "<secret><uuid>{}</uuid><description>{}{}</description></secret>",
            text_of(&object.uuid),
            self.prefix,
            self.next
        );
        let value = object
            .mark
            .split_once(' ')
            .map_or(String::new(), |(_, value)| value.into());
        (object.mark, object.text) = (format!("{}{} {value}", self.prefix, self.next), None);
        let secret = secret(&object);
        let after = self.with(Kind::Secret, &name, object);
        let args = XmlFlagsArgs { xml, flags: 0 };
        self.call::<SecretDefineXml>(client, &args, &name, after)?;
        let seen = look::secret(client, &secret)?;
        self.read(Kind::Secret, &name, seen);
        Ok(())
    }

    fn change_secret(&mut self, client: &mut Client, name: &str) -> Result<(), Failed> {
        let mut object = self.get(Kind::Secret, name);
        let secret = secret(&object);
        match self.random.below(4) {
            0 => self.define_secret(client, Some(name)),
            1 | 2 => {
                let value = format!("value-{}", self.next);
                let (description, _) = object.mark.split_once(' ').unwrap();
                object.mark = format!("{description} {value}");
                let args = SecretSetValueArgs {
                    secret,
                    value: Opaque(value.into()),
                    flags: 0,
                };
                let after = self.with(Kind::Secret, name, object);
                self.call::<SecretSetValue>(client, &args, name, after)
            }
            _ => {
                let after = self.without(Kind::Secret, name);
                self.call::<SecretUndefine>(client, &secret, name, after)
            }
        }
    }
}

fn secret(object: &Object) -> Secret {
    Secret {
        uuid: object.uuid,
        usage: 0,
        usage_id: String::new(),
    }
}
