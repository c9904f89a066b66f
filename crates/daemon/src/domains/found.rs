//! Guests that run when a daemon starts, after one that is gone: finding them, and taking its place.

use std::fs;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::definition::Definition;
use super::domain::{Domain, Live, state};
use super::lifecycle::{Run, mark_settled, refused};
use super::plan::Plan;
use super::{Domains, RunStatus};
use crate::Error;
use crate::files::forget_beside;
use crate::guest::{Attached, RunFiles, cards};

fn read_status(files: &RunFiles) -> std::io::Result<RunStatus> {
    Ok(serde_json::from_slice(&fs::read(files.status())?)?)
}

impl Domains {
    /// Finds the guests that run, after a daemon that is gone.
    pub(super) fn find_running(self: &Arc<Self>) -> Result<(), Error> {
        for entry in fs::read_dir(&self.guests).map_err(Error::file("list", &self.guests))? {
            let folder = entry.map_err(Error::file("list", &self.guests))?.path();
            let files = RunFiles::new(&folder);
            if let Err(why) = self.find_one(&files) {
                crate::log::note!("the guest of \"{}\" runs no more: {why}", folder.display());
                if let Ok(status) = read_status(&files) {
                    status.devices.values().for_each(Attached::delete_port);
                }
                if let Some(guest) = folder.file_name().and_then(|name| name.to_str()) {
                    self.groups.remove(guest);
                }
                let _ = fs::remove_dir_all(&folder);
            }
        }
        Ok(())
    }

    fn find_one(self: &Arc<Self>, files: &RunFiles) -> Result<(), String> {
        let text = |error: std::io::Error| error.to_string();
        let status = read_status(files).map_err(text)?;
        forget_beside(&files.definition());
        forget_beside(&files.status());
        let xml = fs::read_to_string(files.definition()).map_err(text)?;
        let definition = Arc::new(Definition::read_running(&xml).map_err(|e| e.to_string())?);
        let known = self.list().get(&definition.uuid).cloned();
        let domain = known.unwrap_or_else(|| {
            let domain = Domain::new(&definition, None, false);
            self.list().insert(domain.clone());
            domain
        });
        let id = status.id;
        let cid = status.cid;
        let run = Run {
            files,
            definition,
            status,
            steps: &[],
        };
        if let Err(why) = self.adopt(&domain, run) {
            let mut state = domain.state();
            state.off_reason = state::SHUTOFF_CRASHED;
            if state.persistent.is_none() {
                drop(state);
                self.list().remove(&domain.uuid);
            }
            return Err(why.to_string());
        }
        if let Some(cid) = cid {
            self.cids.found(&domain.uuid, cid);
        }
        self.next_id.fetch_max(id + 1, Ordering::Relaxed);
        let answer = domain
            .control()
            .and_then(|control| control.execute("query-status").map_err(refused));
        let asleep = answer
            .as_ref()
            .is_ok_and(|answer| answer["status"] == "suspended");
        let paused = !asleep && answer.is_ok_and(|answer| answer["running"] == false);
        // What was said while nobody listened is not told again.
        let _ = domain.with_live(|live| {
            live.paused = paused;
            live.asleep = asleep;
            if !paused && live.run_reason == state::PAUSED_STARTING {
                live.run_reason = state::RUNNING_UNKNOWN;
            }
        });
        self.find_devices_gone(&domain, id);
        self.finish_start(&domain, files);
        self.find_cpus(&domain);
        if let Err(error) = self.limit_threads(&domain) {
            crate::log::note!(
                "the limits of {} are not as they were: {error}",
                domain.state().name
            );
        }
        self.find_trays(&domain);
        domain.find_memory();
        domain.find_rtc();
        self.take_over_cards(&domain);
        crate::log::note!("guest {} goes on", domain.state().name);
        Ok(())
    }

    /// Gives a guest what a daemon owed it that was killed between the start of its process and the end of its start.
    fn finish_start(&self, domain: &Domain, files: &RunFiles) {
        if !files.unsettled().exists() {
            return;
        }
        let Ok(definition) = domain.with_live(|live| live.definition.clone()) else {
            return;
        };
        let settled = Plan::of(&definition).and_then(|plan| self.settle(domain, &definition, &plan));
        match settled {
            Ok(()) => crate::log::note!("the start of {} is finished", definition.name),
            // It runs, perhaps for long, and goes on as it is. Whatever a client changes from now on is not to be undone.
            Err(error) => crate::log::note!(
                "{} goes on without all that its definition asks for: {error}",
                definition.name
            ),
        }
        mark_settled(files);
    }

    /// Connects cards at networks again from now on, when their switches are started anew.
    fn take_over_cards(&self, domain: &Domain) {
        let parts = |live: &Live| {
            (
                live.control.clone(),
                live.definition.clone(),
                live.devices.clone(),
            )
        };
        let Ok((control, definition, devices)) = domain.with_live(|live| parts(live)) else {
            return;
        };
        // It was started by its plan, so there is one.
        let cards = Plan::of(&definition).map_or_else(|_| Vec::new(), |plan| plan.cards);
        for card in &cards {
            let Some(attached) = devices.get(&card.alias) else {
                continue;
            };
            let taken = cards::take_over(card, &attached.id, &definition.name, &self.outside, &control);
            if let Err(error) = taken {
                crate::log::note!(
                    "the card {} of {} stays without a link when its network starts anew: {error}",
                    card.mac,
                    definition.name
                );
            }
        }
    }
}
