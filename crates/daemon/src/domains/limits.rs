//! What the host gives a guest that runs, by its control group.

use ostler_libvirt::RemoteError;
use ostler_libvirt_xml::tree::Element;

use super::Domains;
use super::definition::Definition;
use super::domain::Domain;
use crate::groups::Limits;

impl Domains {
    /// Has a guest that runs be limited as its definition says after a change. If that cannot be, it is limited as before.
    pub fn limit(&self, domain: &Domain, change: impl Fn(&mut Element)) -> Result<(), RemoteError> {
        let before = domain.with_live(|live| live.definition.clone())?;
        let after = before.edit(change)?;
        self.limit_as(domain, &after).inspect_err(|_| {
            if let Err(error) = self.limit_as(domain, &before) {
                crate::log::note!("a guest's limits are not what they were: {error}");
            }
        })
    }

    fn limit_as(&self, domain: &Domain, definition: &Definition) -> Result<(), RemoteError> {
        let process = domain.with_live(|live| live.process.clone())?;
        let group = self.groups.make(&domain.uuid, &Limits::of(definition))?;
        group.enter(process.pid())?;
        self.limit_threads(domain)?;
        group.limit(&Limits::of(definition))
    }

    /// Has the threads of a guest's CPUs be in their groups, with the limits of its definition.
    pub(super) fn limit_threads(&self, domain: &Domain) -> Result<(), RemoteError> {
        let Some(group) = self.groups.find(&domain.uuid) else {
            return Ok(());
        };
        let parts = domain.with_live(|live| (live.process.clone(), live.definition.clone()));
        let Ok((process, definition)) = parts else {
            // It is over already.
            return Ok(());
        };
        group.enter_vcpus(&process)?;
        group.limit(&Limits::of(&definition))
    }
}
