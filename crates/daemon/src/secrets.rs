//! Secrets: a definition and a value each, in files that only this user may read. An ephemeral one is in memory only.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ostler_libvirt::error::Source;
use ostler_libvirt::procedures::{EVENT_SECRET_LIFECYCLE, EVENT_SECRET_VALUE};
use ostler_libvirt::types::{
    MAX_SECRET_VALUE, MAX_SECRETS, Secret as WireSecret, SecretLifecycleMessage, SecretValueMessage, Uuid,
};
use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::secret::Secret as Definition;

use crate::definitions::Definitions;
use crate::files::{names_in, remove_if_there, sync_folder, write_durably};
use crate::subscriptions::Subscriptions;
use crate::{Error, uuid};

/// Numbers of the events of secrets: life cycle, another value.
const LIFECYCLE: i32 = 0;
const VALUE_CHANGED: i32 = 1;
/// Steps of the life cycle.
const DEFINED: i32 = 0;
const UNDEFINED: i32 = 1;
/// What secrets are for, in the order of their numbers (`virSecretUsageType`).
const USAGES: [&str; 6] = ["none", "volume", "ceph", "iscsi", "tls", "vtpm"];

/// A secret.
struct Secret {
    definition: Definition,
    value: Option<Vec<u8>>,
}

/// All secrets.
pub struct Secrets {
    list: Mutex<BTreeMap<Uuid, Secret>>,
    folder: PathBuf,
    store: Definitions,
    subscriptions: Subscriptions,
}

fn failed(code: Code, detail: impl Into<String>) -> RemoteError {
    RemoteError::new(code, detail).of(Source::Secret)
}

fn not_kept(error: std::io::Error) -> RemoteError {
    failed(Code::System, format!("cannot keep the secret: {error}"))
}

fn not_there(uuid: &Uuid) -> RemoteError {
    let why = format!("no secret with matching uuid '{}'", uuid::format(uuid));
    failed(Code::NoSecret, why)
}

fn read(xml: &str) -> Result<Definition, RemoteError> {
    let new = uuid::random().map_err(not_kept)?;
    let mut random = |bytes: &mut [u8]| bytes.iter_mut().zip(new).for_each(|(to, from)| *to = from);
    Definition::define(xml, &mut random).map_err(|error| crate::xml::refused(error).of(Source::Secret))
}

fn usage(definition: &Definition) -> i32 {
    let at = USAGES.iter().position(|name| *name == definition.usage);
    at.unwrap_or(0) as i32
}

fn to_wire(definition: &Definition) -> WireSecret {
    WireSecret {
        uuid: definition.uuid.0,
        usage: usage(definition),
        usage_id: definition.usage_id.clone(),
    }
}

impl Secrets {
    /// Reads all secrets in `folder`, which is made if it is not there.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let secrets = Self {
            list: Mutex::default(),
            folder: folder.into(),
            store: Definitions::open(folder)?,
            subscriptions: Subscriptions::new(LIFECYCLE..VALUE_CHANGED + 1),
        };
        for (definition, _) in secrets
            .store
            .load(read, |definition| definition.uuid.to_string())?
        {
            let uuid = definition.uuid.0;
            let path = secrets.value_file(&uuid);
            let value = match fs::read(&path) {
                Ok(value) if value.len() <= MAX_SECRET_VALUE => Some(value),
                Ok(_) => None,
                Err(error) => {
                    if error.kind() != std::io::ErrorKind::NotFound {
                        crate::log::note!("cannot read \"{}\": {error}", path.display());
                    }
                    None
                }
            };
            secrets.list().insert(uuid, Secret { definition, value });
        }
        secrets
            .remove_loose_values()
            .map_err(Error::file("tidy", folder))?;
        Ok(secrets)
    }

    fn list(&self) -> MutexGuard<'_, BTreeMap<Uuid, Secret>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn value_file(&self, uuid: &Uuid) -> PathBuf {
        self.folder.join(format!("{}.value", uuid::format(uuid)))
    }

    /// Subscriptions to what happens to secrets.
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    /// The secrets whose definition is `wanted`, by UUID.
    pub fn all(&self, wanted: impl Fn(&Definition) -> bool) -> Vec<WireSecret> {
        let list = self.list();
        let wanted = list.values().filter(|secret| wanted(&secret.definition));
        wanted.map(|secret| to_wire(&secret.definition)).collect()
    }

    /// The secret with this UUID.
    pub fn by_uuid(&self, uuid: &Uuid) -> Result<WireSecret, RemoteError> {
        let list = self.list();
        let found = list.get(uuid).map(|secret| to_wire(&secret.definition));
        found.ok_or_else(|| not_there(uuid))
    }

    /// The secret that is for this.
    pub fn by_usage(&self, kind: i32, id: &str) -> Result<WireSecret, RemoteError> {
        let found = self.all(|other| kind != 0 && usage(other) == kind && other.usage_id == id);
        found.into_iter().next().ok_or_else(|| {
            let why = format!("no secret with matching usage '{id}'");
            failed(Code::NoSecret, why)
        })
    }

    /// Keeps a definition: a new secret's, or another one of a secret that is there.
    pub fn define(&self, xml: &str) -> Result<WireSecret, RemoteError> {
        let definition = read(xml)?;
        let (uuid, wire) = (definition.uuid.0, to_wire(&definition));
        let mut list = self.list();
        self.check_conflicts(&list, &definition)?;
        if definition.ephemeral {
            self.remove_files(&uuid)?;
        } else {
            let known = list.get(&uuid).filter(|known| known.definition.ephemeral);
            self.keep(&definition, known.and_then(|known| known.value.as_deref()))
                .map_err(not_kept)?;
        }
        let value = list.remove(&uuid).and_then(|secret| secret.value);
        list.insert(uuid, Secret { definition, value });
        self.tell_lifecycle(&wire, DEFINED);
        Ok(wire)
    }

    /// Keeps a definition in a file, and the value of one that was ephemeral and had it in memory only.
    fn keep(&self, definition: &Definition, value: Option<&[u8]>) -> std::io::Result<()> {
        let path = self.value_file(&definition.uuid.0);
        // The value first: should we be killed in between, it belongs to nothing, and goes when secrets are read.
        if let Some(value) = value {
            write_durably(&path, value)?;
        }
        let saved = self.store.save(&definition.uuid.to_string(), &definition.xml());
        saved.inspect_err(|_| {
            if value.is_some() {
                let _ = remove_if_there(&path);
            }
        })
    }

    fn check_conflicts(
        &self,
        list: &BTreeMap<Uuid, Secret>,
        definition: &Definition,
    ) -> Result<(), RemoteError> {
        let id = &definition.usage_id;
        let uuid = definition.uuid.0;
        if let Some(Secret {
            definition: known, ..
        }) = list.get(&uuid)
        {
            if (&known.usage, &known.usage_id) != (&definition.usage, id) {
                let text = uuid::format(&uuid);
                let why = format!(
                    "a secret with UUID {text} is already defined for use with {}",
                    known.usage_id
                );
                return Err(failed(Code::OperationFailed, why));
            }
            if known.private && !definition.private {
                let why = "cannot change private flag on existing secret";
                return Err(failed(Code::OperationInvalid, why));
            }
        } else if list.len() >= MAX_SECRETS {
            let why =
                format!("there are {MAX_SECRETS} secrets already, which is as many as clients can list");
            return Err(failed(Code::OperationFailed, why));
        }
        let same_use = |other: &&Secret| {
            let other = &other.definition;
            other.uuid.0 != uuid
                && other.usage != "none"
                && (&other.usage, &other.usage_id) == (&definition.usage, id)
        };
        match list.values().find(same_use) {
            Some(other) => {
                let text = other.definition.uuid;
                let why = format!("a secret with UUID {text} is already defined for use with {id}");
                Err(failed(Code::OperationFailed, why))
            }
            None => Ok(()),
        }
    }

    /// The definition of a secret.
    pub fn xml(&self, secret: &WireSecret) -> Result<String, RemoteError> {
        let list = self.list();
        let found = list.get(&secret.uuid).ok_or_else(|| not_there(&secret.uuid))?;
        Ok(found.definition.xml())
    }

    /// Gives a secret a value.
    pub fn set_value(&self, secret: &WireSecret, value: Vec<u8>) -> Result<(), RemoteError> {
        let mut list = self.list();
        let found = list
            .get_mut(&secret.uuid)
            .ok_or_else(|| not_there(&secret.uuid))?;
        if !found.definition.ephemeral {
            write_durably(&self.value_file(&secret.uuid), &value).map_err(not_kept)?;
        }
        found.value = Some(value);
        let wire = to_wire(&found.definition);
        self.subscriptions
            .tell(VALUE_CHANGED, EVENT_SECRET_VALUE, &wire.uuid, |callback| {
                SecretValueMessage {
                    callback,
                    secret: wire.clone(),
                }
            });
        Ok(())
    }

    /// The value of a secret that is not private.
    pub fn value(&self, secret: &WireSecret) -> Result<Vec<u8>, RemoteError> {
        let list = self.list();
        let found = list.get(&secret.uuid).ok_or_else(|| not_there(&secret.uuid))?;
        if found.definition.private {
            return Err(failed(Code::InvalidSecret, "secret is private"));
        }
        found.value.clone().ok_or_else(|| {
            let why = format!("secret '{}' does not have a value", uuid::format(&secret.uuid));
            failed(Code::NoSecret, why)
        })
    }

    /// Forgets a secret.
    pub fn undefine(&self, secret: &WireSecret) -> Result<(), RemoteError> {
        let mut list = self.list();
        let found = list.get(&secret.uuid).ok_or_else(|| not_there(&secret.uuid))?;
        let wire = to_wire(&found.definition);
        self.remove_files(&secret.uuid)?;
        list.remove(&secret.uuid);
        self.tell_lifecycle(&wire, UNDEFINED);
        Ok(())
    }

    /// The value last: should we be killed in between, it belongs to nothing, and goes when secrets are read.
    fn remove_files(&self, uuid: &Uuid) -> Result<(), RemoteError> {
        self.store
            .remove(&uuid::format(uuid))
            .and_then(|()| remove_if_there(&self.value_file(uuid)))
            .and_then(|()| sync_folder(&self.folder))
            .map_err(not_kept)
    }

    /// Removes values whose definitions are not there.
    fn remove_loose_values(&self) -> std::io::Result<()> {
        for file in names_in(&self.folder)? {
            if let Some(uuid) = file.strip_suffix(".value")
                && !self.folder.join(format!("{uuid}.xml")).exists()
            {
                remove_if_there(&self.folder.join(&file))?;
            }
        }
        sync_folder(&self.folder)
    }

    fn tell_lifecycle(&self, secret: &WireSecret, event: i32) {
        self.subscriptions
            .tell(LIFECYCLE, EVENT_SECRET_LIFECYCLE, &secret.uuid, |callback| {
                SecretLifecycleMessage {
                    callback,
                    secret: secret.clone(),
                    event,
                    detail: 0,
                }
            });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const XML: &str = "<secret><usage type='ceph'><name>client.a</name></usage></secret>";

    #[test]
    fn values_last_in_files_of_their_own() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(folder.path()).unwrap();
        let secret = secrets.define(XML).unwrap();
        assert_eq!(secrets.value(&secret).unwrap_err().code, Code::NoSecret);
        secrets.set_value(&secret, b"\0\xffvalue".to_vec()).unwrap();
        for entry in fs::read_dir(folder.path()).unwrap().flatten() {
            let meta = entry.metadata().unwrap();
            if meta.is_file() {
                assert_eq!(meta.permissions().mode() & 0o777, 0o600, "{:?}", entry.path());
            }
        }
        let again = Secrets::open(folder.path()).unwrap();
        assert_eq!(again.by_usage(2, "client.a").unwrap(), secret);
        assert_eq!(again.value(&secret).unwrap(), b"\0\xffvalue");
        again.undefine(&secret).unwrap();
        let left = fs::read_dir(folder.path())
            .unwrap()
            .flatten()
            .filter(|e| e.path().is_file());
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn what_is_ephemeral_is_in_no_file_and_what_is_private_is_not_told() {
        let folder = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(folder.path()).unwrap();
        let hidden = XML.replace("<secret>", "<secret ephemeral='yes' private='yes'>");
        let secret = secrets.define(&hidden).unwrap();
        secrets.set_value(&secret, b"value".to_vec()).unwrap();
        assert_eq!(secrets.value(&secret).unwrap_err().code, Code::InvalidSecret);
        assert!(Secrets::open(folder.path()).unwrap().all(|_| true).is_empty());
        // It stays private, whoever defines it anew.
        let open = XML.replace(
            "<secret>",
            &format!("<secret><uuid>{}</uuid>", uuid::format(&secret.uuid)),
        );
        assert_eq!(secrets.define(&open).unwrap_err().code, Code::OperationInvalid);
        let other = secrets.define(XML).unwrap_err();
        assert_eq!(other.code, Code::OperationFailed, "another one for the same use");
    }
}
