//! The management daemon: it owns the definitions of guests, starts and stops them, and answers libvirt's clients.
//!
//! A guest is a process of its own and outlives the daemon. What has to be known of it is in files (its definition, and
//! for a guest that runs a folder with its control socket), so that a daemon that was killed finds everything again.

mod audit;
mod calls;
pub mod config;
mod console;
mod definitions;
mod domains;
mod doors;
mod error;
mod events;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod groups;
mod guest;
mod host;
mod log;
mod networks;
mod nodedevs;
mod secrets;
mod server;
mod storage;
mod stream;
mod subscriptions;
mod uuid;
mod xml;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

pub use config::{Config, Scope};
pub use error::Error;

use audit::Audit;
use calls::Dispatcher;
use domains::Domains;
use doors::systemd;
use doors::tls::Tls;
use events::Events;
use files::make_private_folder;
use groups::Groups;
use guest::Outside;
use networks::Networks;
use nodedevs::DeviceEvents;
use ostler_libvirt::types::Uuid;
use rustix::fs::{FlockOperation, flock};
use secrets::Secrets;
use server::Server;
use storage::{Places, Pools};

/// Opens /dev/kvm for a guest, or says in one sentence why there is none.
pub type OpenKvm = Box<dyn Fn() -> Result<OwnedFd, String> + Send + Sync>;

/// What every call works on.
pub(crate) struct Shared {
    pub scope: Scope,
    pub host_uuid: Uuid,
    pub domains: Arc<Domains>,
    pub networks: Arc<Networks>,
    pub events: Arc<Events>,
    pub pools: Arc<Pools>,
    pub secrets: Secrets,
    pub devices: Arc<DeviceEvents>,
    pub dispatcher: Dispatcher,
    pub audit: Audit,
}

impl Shared {
    /// Forgets what a client that is gone wanted to hear of.
    pub fn forget_client(&self, number: u64) {
        self.events.forget_client(number);
        self.networks.events.forget_client(number);
        self.pools.subscriptions().forget_client(number);
        self.secrets.subscriptions().forget_client(number);
        self.devices.subscriptions().forget_client(number);
    }
}

/// A daemon that serves. Dropping it hangs up on clients and leaves guests running.
pub struct Daemon {
    server: Server,
    domains: Arc<Domains>,
    /// Keeps a second daemon away.
    _lock: File,
}

/// Takes the folder of what runs.
fn lock(runtime: &Path) -> Result<File, Error> {
    make_private_folder(runtime)?;
    let path = runtime.join("lock");
    let lock = File::create(&path).map_err(Error::file("write", &path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(_) => Err(Error::InUse(runtime.into())),
    }
}

impl Daemon {
    /// Takes the folders, finds the guests that run, and serves clients from now on. systemd is told, if it started us.
    pub fn start(config: &Config, kvm: OpenKvm) -> Result<Self, Error> {
        let host_failed = |action| move |source| Error::Host { action, source };
        let activated = systemd::activated().map_err(host_failed("take over sockets of systemd"))?;
        let tls = config.tls.as_ref().map(Tls::load).transpose()?;
        let audit = Audit::open(config.audit.as_deref())?;
        let host_uuid = match config.host_uuid.or_else(host::uuid) {
            Some(uuid) => uuid,
            None => uuid::random().map_err(host_failed("give random numbers"))?,
        };
        let events = Arc::new(Events::default());
        // Nobody else is at the other folders from now on.
        let lock = lock(&config.runtime)?;
        // Whoever knocks early waits. What is wrong with a configuration is found here at the latest, before anything is started.
        let doors = doors::open(config, activated)?;
        let networks = Networks::open(&config.beside("networks"), &config.runtime)?;
        networks.load()?;
        // Before anyone is served, as guests and clients rely on them.
        networks.autostart();
        let pools = Pools::open(&Places {
            definitions: &config.beside("pools"),
            running: &config.runtime.join("pools"),
            images: &config.images,
        })?;
        let outside = Outside {
            networks: {
                let networks = networks.clone();
                Box::new(move |card| networks.place(card))
            },
            volumes: {
                let pools = pools.clone();
                Box::new(move |pool, volume| pools.volume_path(pool, volume))
            },
        };
        let domains = Domains::open(
            &config.definitions,
            &config.runtime,
            kvm,
            (outside, Groups::new(config.groups.clone())),
            events.clone(),
        )?;
        let shared = Arc::new(Shared {
            scope: config.scope,
            host_uuid,
            domains: domains.clone(),
            networks: networks.clone(),
            events,
            pools,
            secrets: Secrets::open(&config.beside("secrets"))?,
            devices: Arc::default(),
            dispatcher: Dispatcher::new(),
            audit,
        });
        let server = Server::start(doors, tls, shared)?;
        domains.autostart();
        systemd::notify("READY=1");
        Ok(Self {
            server,
            domains,
            _lock: lock,
        })
    }

    /// Reads the files of TLS again: certificates, key, revocations, and who is let in. Clients that are connected stay. If anything
    /// is wrong with them, all stays as it was. The rest of `config` is of the next start.
    pub fn reload(&self, config: &Config) -> Result<(), Error> {
        let Some(tls) = &config.tls else {
            log::note!("there is no TLS whose certificates could be read again");
            return Ok(());
        };
        match self.server.replace_tls(Tls::load(tls)?) {
            true => log::note!("the certificates of TLS were read again"),
            false => log::note!("TLS is served from the next start on"),
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        systemd::notify("STOPPING=1");
        self.domains.settle_definitions();
    }
}
