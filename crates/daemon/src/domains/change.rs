//! Changes of definitions, of guests that run, or of both.

use std::sync::Arc;

use ostler_libvirt::{Code, RemoteError};
use ostler_libvirt_xml::tree::Element;

use super::definition::Definition;
use super::domain::{Domain, DomainState, not_running};
use super::lifecycle::keep;
use super::{Domains, RunStatus, storage_failed};

/// Flags that choose between the guest that runs and its definition (`virDomainModificationImpact`).
const CONFIG: u32 = 2;

/// What a change is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Impact {
    /// The guest that runs.
    pub live: bool,
    /// The definition that lasts.
    pub config: bool,
}

impl Impact {
    /// The flags that say so.
    pub const FLAGS: u32 = Self::LIVE | CONFIG;
    /// The guest that runs.
    pub const LIVE: u32 = 1;

    /// What the flags of a call mean for a guest; without any it is the guest that runs, if it does.
    pub fn of(flags: u32, state: &DomainState) -> Result<Self, RemoteError> {
        let runs = state.live.is_some();
        let impact = match flags & Self::FLAGS {
            0 => Self {
                live: runs,
                config: !runs,
            },
            some => Self {
                live: some & Self::LIVE != 0,
                config: some & CONFIG != 0,
            },
        };
        if impact.live && !runs {
            return Err(not_running());
        }
        if impact.config && state.persistent.is_none() {
            let why = "transient domains do not have any persistent config";
            return Err(RemoteError::new(Code::OperationInvalid, why));
        }
        Ok(impact)
    }
}

impl Domains {
    /// Edits the documents that `flags` mean. For what is more than text in a guest that runs, `check` says whether it can be.
    pub fn edit(
        &self,
        domain: &Domain,
        flags: u32,
        check: impl FnOnce(Impact) -> Result<(), RemoteError>,
        change: impl Fn(&mut Element),
    ) -> Result<(), RemoteError> {
        let _job = domain.job();
        let _devices = domain.devices();
        let (impact, live, config) = {
            let state = domain.state();
            let impact = Impact::of(flags, &state)?;
            let live = state.live.as_ref().filter(|_| impact.live);
            let live = live.map(|live| live.definition.clone());
            (impact, live, state.persistent.clone().filter(|_| impact.config))
        };
        check(impact)?;
        let live = live.map(|definition| definition.edit(&change)).transpose()?;
        let config = config.map(|definition| definition.edit(&change)).transpose()?;
        if let Some(config) = config {
            self.keep_config(domain, config)?;
        }
        if let Some(live) = live {
            self.keep_live(domain, live)?;
        }
        Ok(())
    }

    /// Another definition that lasts, of the same name. The caller has the job.
    pub(super) fn keep_config(&self, domain: &Domain, definition: Definition) -> Result<(), RemoteError> {
        self.store.save(&definition).map_err(storage_failed)?;
        domain.state().persistent = Some(Arc::new(definition));
        Ok(())
    }

    /// What a guest that runs is from now on. The caller has its devices.
    pub(super) fn keep_live(&self, domain: &Domain, definition: Definition) -> Result<(), RemoteError> {
        let definition = Arc::new(definition);
        let (files, status) = domain.with_live(|live| {
            live.definition = definition.clone();
            let status = RunStatus {
                id: live.id,
                paused: live.paused,
                devices: live.devices.clone(),
                next_plug: live.next_plug,
                cid: live.cid,
                rtc: live.rtc,
            };
            (live.files.clone(), status)
        })?;
        keep(&files, &definition, &status)
    }
}
