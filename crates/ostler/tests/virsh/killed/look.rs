//! What a daemon has, as it tells its clients.

use std::collections::BTreeMap;

use ostler_libvirt::procedures::*;
use ostler_libvirt::types::*;

use super::client::{Client, Failed};

/// The flag that asks for the definition of a guest that lasts (`VIR_DOMAIN_XML_INACTIVE`).
const INACTIVE_GUEST: u32 = 2;
/// The same for networks and pools.
const INACTIVE: u32 = 1;

/// Objects by kind and name.
pub type Objects = BTreeMap<(Kind, String), Object>;

/// What kind of object something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Guest,
    Network,
    Pool,
    Volume,
    Secret,
}

/// One object, as far as its kind has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub uuid: Uuid,
    /// Whether it starts with the host.
    pub autostart: bool,
    /// What was changed last in its definition.
    pub mark: String,
    /// Whether it runs.
    pub state: State,
    /// Entropy sources that a guest has which runs.
    pub plugged: usize,
    /// Its definition, if it was read since its last change.
    pub text: Option<String>,
}

/// Whether an object runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Off,
    Running,
    Paused,
}

impl Object {
    /// Whether this is what was `seen`.
    pub fn is(&self, seen: &Self) -> bool {
        let text = self.text.is_none() || self.text == seen.text;
        let short = |object: &Self| {
            let Self {
                uuid,
                autostart,
                mark,
                state,
                plugged,
                ..
            } = object.clone();
            (uuid, autostart, mark, state, plugged)
        };
        text && short(self) == short(seen)
    }
}

fn is_on(value: i32) -> State {
    if value != 0 { State::Running } else { State::Off }
}

/// What stands between two texts, or nothing.
fn between(text: &str, start: &str, end: &str) -> String {
    let rest = text.split_once(start).map_or("", |(_, rest)| rest);
    rest.split_once(end).map_or("", |(between, _)| between).to_owned()
}

pub fn guest(client: &mut Client, guest: &Domain) -> Result<Object, Failed> {
    let args = |flags| DomainFlagsArgs {
        domain: guest.clone(),
        flags,
    };
    let text = client.call::<DomainGetXmlDesc>(&args(INACTIVE_GUEST))?;
    let title = between(&text, "<title>", "</title>");
    let description = between(&text, "<description>", "</description>");
    let state = match client.call::<DomainGetState>(&args(0))?.state {
        1 => State::Running,
        3 => State::Paused,
        5 => State::Off,
        other => panic!("{} is in state {other}", guest.name),
    };
    let live = client.call::<DomainGetXmlDesc>(&args(0))?;
    Ok(Object {
        uuid: guest.uuid,
        autostart: client.call::<DomainGetAutostart>(guest)? != 0,
        mark: format!("{description} {title}"),
        state,
        plugged: live.matches("<rng ").count(),
        text: Some(text),
    })
}

pub fn network(client: &mut Client, network: &Network) -> Result<Object, Failed> {
    let args = NetworkFlagsArgs {
        network: network.clone(),
        flags: INACTIVE,
    };
    let text = client.call::<NetworkGetXmlDesc>(&args)?;
    Ok(Object {
        uuid: network.uuid,
        autostart: client.call::<NetworkGetAutostart>(network)? != 0,
        mark: between(&text, "<mtu size='", "'"),
        state: is_on(client.call::<NetworkIsActive>(network)?),
        plugged: 0,
        text: Some(text),
    })
}

pub fn pool(client: &mut Client, pool: &StoragePool) -> Result<Object, Failed> {
    let args = PoolFlagsArgs {
        pool: pool.clone(),
        flags: INACTIVE,
    };
    let text = client.call::<StoragePoolGetXmlDesc>(&args)?;
    Ok(Object {
        uuid: pool.uuid,
        autostart: client.call::<StoragePoolGetAutostart>(pool)? != 0,
        mark: between(&text, "<mode>", "</mode>"),
        state: is_on(client.call::<StoragePoolIsActive>(pool)?),
        plugged: 0,
        text: Some(text),
    })
}

pub fn volume(client: &mut Client, volume: &StorageVolume) -> Result<Object, Failed> {
    let info = client.call::<StorageVolGetInfo>(volume)?;
    Ok(Object {
        uuid: Uuid::default(),
        autostart: false,
        mark: info.capacity.to_string(),
        state: State::Off,
        plugged: 0,
        text: None,
    })
}

pub fn secret(client: &mut Client, secret: &Secret) -> Result<Object, Failed> {
    let args = SecretFlagsArgs {
        secret: secret.clone(),
        flags: 0,
    };
    let text = client.call::<SecretGetXmlDesc>(&args)?;
    let value = match client.call::<SecretGetValue>(&args) {
        Ok(value) => String::from_utf8(value.0).unwrap(),
        Err(Failed::Refused(why)) if why.contains("does not have a value") => String::new(),
        Err(error) => return Err(error),
    };
    let description = between(&text, "<description>", "</description>");
    Ok(Object {
        uuid: secret.uuid,
        autostart: false,
        mark: format!("{description} {value}"),
        state: State::Off,
        plugged: 0,
        text: Some(text),
    })
}

/// How a secret is called here: it has no name.
pub fn name_of(uuid: &Uuid) -> String {
    uuid.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Everything that there is.
pub fn everything(client: &mut Client) -> Result<Objects, Failed> {
    const ALL: ListAllArgs = ListAllArgs {
        need_results: 1,
        flags: 0,
    };
    let mut found = Vec::new();
    for one in client.call::<ConnectListAllDomains>(&ALL)?.domains.0 {
        let object = guest(client, &one)?;
        found.push(((Kind::Guest, one.name), object));
    }
    for one in client.call::<ConnectListAllNetworks>(&ALL)?.networks.0 {
        let object = network(client, &one)?;
        found.push(((Kind::Network, one.name), object));
    }
    for one in client.call::<ConnectListAllStoragePools>(&ALL)?.pools.0 {
        if one.name == "default" {
            let args = ListAllVolumesArgs {
                pool: one.clone(),
                need_results: 1,
                flags: 0,
            };
            for one in client.call::<StoragePoolListAllVolumes>(&args)?.volumes.0 {
                let object = volume(client, &one)?;
                found.push(((Kind::Volume, one.name), object));
            }
        }
        let object = pool(client, &one)?;
        found.push(((Kind::Pool, one.name), object));
    }
    for one in client.call::<ConnectListAllSecrets>(&ALL)?.secrets.0 {
        let object = secret(client, &one)?;
        found.push(((Kind::Secret, name_of(&one.uuid)), object));
    }
    let count = found.len();
    let objects: Objects = found.into_iter().collect();
    assert_eq!(objects.len(), count, "something is there twice");
    Ok(objects)
}
