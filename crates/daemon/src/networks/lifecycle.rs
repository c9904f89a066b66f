//! Starting and ending networks, and finding those that run.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ostler_hostnet::{BackEnd, Error as HostError, Kernel, OpenVSwitch};
use ostler_libvirt::types::Network as WireNetwork;
use ostler_libvirt::{Code, RemoteError};

use super::definition::{Definition, Way};
use super::events::Step;
use super::network::{Live, Network};
use super::switch::{self, NetworkFiles};
use super::{Networks, kernel, storage_failed, switch_name};
use crate::Error;
use crate::files::{forget_beside, write_durably};

/// What a switch may take to end by itself once it was told to.
const PATIENCE: Duration = Duration::from_secs(10);
/// Before a switch beside a network of the kernel's is started again.
const PAUSE: Duration = Duration::from_secs(1);

fn make_folder(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

impl Networks {
    /// Starts a network that is defined.
    pub fn start(self: &Arc<Self>, network: &Arc<Network>) -> Result<(), RemoteError> {
        let _job = network.job();
        let definition = network.state().current()?.clone();
        self.start_as(network, definition)
    }

    /// Starts a network that is there while it runs only, or one that is defined in another form for this run.
    pub fn create(self: &Arc<Self>, xml: &str) -> Result<WireNetwork, RemoteError> {
        let definition = Arc::new(self.read(xml)?);
        let (network, is_new) = self.claim(&definition)?;
        let _job = network.job();
        self.start_as(&network, definition).inspect_err(|_| {
            if is_new {
                self.list().remove(&network.uuid);
            }
        })?;
        Ok(network.to_wire())
    }

    /// Starts a network as `definition` says. The caller has the job.
    fn start_as(
        self: &Arc<Self>,
        network: &Arc<Network>,
        definition: Arc<Definition>,
    ) -> Result<(), RemoteError> {
        if network.state().live.is_some() {
            return Err(RemoteError::network(
                Code::OperationInvalid,
                "network is already active",
            ));
        }
        let files = self.files(&network.uuid, &network.name);
        self.run(network, definition, &files).inspect_err(|_| {
            // Nothing of it runs.
            let _ = fs::remove_dir_all(&files.folder);
        })
    }

    fn run(
        self: &Arc<Self>,
        network: &Arc<Network>,
        definition: Arc<Definition>,
        files: &NetworkFiles,
    ) -> Result<(), RemoteError> {
        make_folder(&files.folder).map_err(storage_failed)?;
        // Written first: should we be killed right after the start, the network is found by it.
        self.keep_live(files, &definition)?;
        match &definition.way {
            Way::Bridge(bridge) => find_bridge(Kernel::open(), bridge)?,
            Way::OpenVSwitch(bridge) => find_bridge(OpenVSwitch::open(), bridge)?,
            Way::Switch(_) => self.start_switch(network, &definition, files)?,
            Way::Kernel(wish) => {
                let made = kernel::make(files, wish);
                made.and_then(|()| match definition.way.has_switch() {
                    true => self.start_switch(network, &definition, files),
                    false => Ok(()),
                })
                .inspect_err(|_| take_away(&definition, files))?;
            }
        }
        self.adopt(network, definition, files, true)
    }

    /// Starts the network's switch.
    fn start_switch(
        &self,
        network: &Network,
        definition: &Definition,
        files: &NetworkFiles,
    ) -> Result<(), RemoteError> {
        let config = self.config(network, definition, files);
        let mut child = switch::start(files, &config)?;
        // Nobody else waits for the process.
        let wait = move || child.wait();
        if let Err(error) = std::thread::Builder::new().name("child".into()).spawn(wait) {
            crate::log::note!("a switch's process stays listed after its end: {error}");
        }
        Ok(())
    }

    /// What a network that runs was started as.
    pub(super) fn keep_live(&self, files: &NetworkFiles, definition: &Definition) -> Result<(), RemoteError> {
        write_durably(&files.definition(), definition.network.xml().as_bytes()).map_err(storage_failed)
    }

    /// The configuration of the network's switch.
    pub(super) fn config(&self, network: &Network, definition: &Definition, files: &NetworkFiles) -> String {
        let tap = match &definition.way {
            Way::Kernel(wish) => Some(&*wish.tap),
            _ => None,
        };
        let name = switch_name(&network.uuid, &network.name);
        let mtu = definition.network.mtu;
        switch::config(&name, &files.control, tap, definition.way.router(), mtu)
    }

    /// Notes that a network runs, and listens for its end from now on.
    fn adopt(
        self: &Arc<Self>,
        network: &Arc<Network>,
        definition: Arc<Definition>,
        files: &NetworkFiles,
        is_news: bool,
    ) -> Result<(), RemoteError> {
        let run = self.next_run.fetch_add(1, Ordering::Relaxed);
        let has_switch = definition.way.has_switch();
        let mut state = network.state();
        state.live = Some(Live {
            run,
            definition: definition.clone(),
            files: files.clone(),
        });
        if is_news {
            self.events.tell(&network.to_wire(), Step::Started);
        }
        drop(state);
        if has_switch && let Err(error) = self.watch(network, &definition, run, files) {
            switch::quit(&files.control);
            take_away(&definition, files);
            self.gone(network, run);
            let why = format!("the network's switch does not answer: {error}");
            return Err(RemoteError::network(Code::Internal, why));
        }
        Ok(())
    }

    /// Listens for the end of a network's switch: that is the end of the network, or of its addresses and names only.
    fn watch(
        self: &Arc<Self>,
        network: &Arc<Network>,
        definition: &Definition,
        run: u64,
        files: &NetworkFiles,
    ) -> std::io::Result<()> {
        let (networks, theirs) = (self.clone(), network.clone());
        let is_kernel = matches!(definition.way, Way::Kernel(_));
        switch::watch(&files.control, move || match is_kernel {
            true => networks.serve_again(&theirs, run),
            false => networks.gone(&theirs, run),
        })
    }

    /// Starts the switch beside a network of the kernel's again, whose guests go on meanwhile.
    fn serve_again(self: &Arc<Self>, network: &Arc<Network>, run: u64) {
        std::thread::sleep(PAUSE);
        // Whoever ends the network has it until it has ended.
        let _job = network.job();
        let live = network.state().live.clone();
        let Some(live) = live.filter(|live| live.run == run) else {
            return;
        };
        crate::log::note!("network {}: its DHCP server is started again", network.name);
        let started = self
            .start_switch(network, &live.definition, &live.files)
            .map_err(|error| error.to_string());
        let watched = started.and_then(|()| {
            let watched = self.watch(network, &live.definition, run, &live.files);
            watched.map_err(|error| error.to_string())
        });
        if let Err(why) = watched {
            crate::log::note!("network {} gives no addresses: {why}", network.name);
        }
    }

    /// Run `run` of a network is over.
    fn gone(&self, network: &Network, run: u64) {
        let mut state = network.state();
        let Some(live) = state.live.take_if(|live| live.run == run) else {
            return;
        };
        // Before anyone can start it again, which makes a new folder.
        let _ = fs::remove_dir_all(&live.files.folder);
        self.events.tell(&network.to_wire(), Step::Stopped);
        let is_transient = state.persistent.is_none();
        drop(state);
        network.tell_end();
        if is_transient {
            self.list().remove(&network.uuid);
        }
    }

    /// Ends a network. Guests that are connected lose it.
    pub fn destroy(&self, network: &Network) -> Result<(), RemoteError> {
        let _job = network.job();
        let live = network.live()?;
        match &live.definition.way {
            Way::Switch(_) => {}
            Way::Bridge(_) | Way::OpenVSwitch(_) => {
                self.gone(network, live.run);
                return Ok(());
            }
            Way::Kernel(wish) => {
                switch::end(&live.files.control)?;
                kernel::end(&live.files, wish)?;
                self.gone(network, live.run);
                return Ok(());
            }
        }
        switch::quit(&live.files.control);
        if network.wait_for_end(live.run, PATIENCE) {
            return Ok(());
        }
        switch::kill(&live.files.control);
        if network.wait_for_end(live.run, PATIENCE) {
            return Ok(());
        }
        Err(RemoteError::network(
            Code::OperationFailed,
            "the network's switch does not end; look at it with ps",
        ))
    }

    /// Finds the networks that run, after a daemon that is gone.
    pub(super) fn find_running(self: &Arc<Self>) -> Result<(), Error> {
        let folder = self.runtime.join("networks");
        make_folder(&folder).map_err(Error::file("make the folder", &folder))?;
        for entry in fs::read_dir(&folder).map_err(Error::file("list", &folder))? {
            let folder = entry.map_err(Error::file("list", &folder))?.path();
            if let Err(why) = self.find_one(&folder) {
                crate::log::note!("the network of \"{}\" runs no more: {why}", folder.display());
                let _ = fs::remove_dir_all(&folder);
            }
        }
        Ok(())
    }

    fn find_one(self: &Arc<Self>, folder: &Path) -> Result<(), String> {
        let xml = fs::read_to_string(folder.join("network.xml")).map_err(|error| error.to_string())?;
        let definition = Definition::read(&xml, "virbr0").map_err(|error| error.to_string())?;
        let (name, uuid) = (&definition.network.name, definition.network.uuid.0);
        let files = self.files(&uuid, name);
        if files.folder != folder {
            return Err("it is another's folder".into());
        }
        forget_beside(&files.definition());
        self.find_what_runs(&definition, &files)
            .map_err(|error| error.to_string())?;
        let known = self.list().get(&uuid).cloned();
        let network = known.unwrap_or_else(|| {
            let network = Network::new(&definition);
            self.list().insert(uuid, network.clone());
            network
        });
        let adopted = self.adopt(&network, Arc::new(definition), &files, false);
        adopted.map_err(|error| error.to_string())?;
        crate::log::note!("network {} goes on", network.name);
        Ok(())
    }

    /// An error if the network runs no more. What there is of it then is taken away.
    fn find_what_runs(&self, definition: &Definition, files: &NetworkFiles) -> Result<(), RemoteError> {
        match &definition.way {
            Way::Switch(_) => switch::find(files),
            Way::Bridge(bridge) => find_bridge(Kernel::open(), bridge),
            Way::OpenVSwitch(bridge) => find_bridge(OpenVSwitch::open(), bridge),
            Way::Kernel(wish) => {
                let found = kernel::find(files, wish);
                found
                    .and_then(
                        |()| match definition.way.has_switch() && switch::find(files).is_err() {
                            true => self.start_switch(&Network::new(definition), definition, files),
                            false => Ok(()),
                        },
                    )
                    .inspect_err(|_| take_away(definition, files))
            }
        }
    }

    /// Starts the networks that start with the host, once for each time that the host starts.
    pub fn autostart(self: &Arc<Self>) {
        let marker = self.runtime.join("networks-autostarted");
        if marker.exists() {
            return;
        }
        for network in self.all() {
            let wanted = {
                let state = network.state();
                state.autostart && state.live.is_none()
            };
            if wanted && let Err(error) = self.start(&network) {
                crate::log::note!("network {} does not start with the host: {error}", network.name);
            }
        }
        // Last: should we be killed before, the next daemon starts the others.
        if let Err(error) = File::create(&marker) {
            crate::log::note!("cannot write \"{}\": {error}", marker.display());
        }
    }
}

/// Takes away what there is of a network that does not run, and notes what stays.
fn take_away(definition: &Definition, files: &NetworkFiles) {
    let Way::Kernel(wish) = &definition.way else {
        return;
    };
    let ended = switch::end(&files.control).and_then(|()| kernel::end(files, wish));
    if let Err(error) = ended {
        crate::log::note!("of network {} something stays: {error}", definition.network.name);
    }
}

/// Checks that the host has the bridge.
fn find_bridge(backend: Result<impl BackEnd, HostError>, name: &str) -> Result<(), RemoteError> {
    let found = backend.and_then(|mut backend| backend.bridge(name));
    found.map(drop).map_err(|error| {
        RemoteError::network(
            Code::OperationFailed,
            format!("the bridge '{name}' cannot be used: {error}"),
        )
    })
}
