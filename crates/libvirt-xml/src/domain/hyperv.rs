//! Hyper-V's interface: `<features><hyperv>`, and its clock among the timers of `<clock>`.

use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::{Error, value};

const OF_KVM: &str = "an enlightenment that the guest sees on KVM, and not on the software CPU";
const LESS: &str = "not shown";

const ROWS: &[Row] = &[
    kept(
        "@mode",
        "custom",
        "the enlightenments are those that are written down",
    ),
    refused("@mode", "", "enlightenments are asked for one by one"),
    honoured(
        "{relaxed,vapic,vpindex,runtime,synic,reset,frequencies,tlbflush,ipi}@state",
        "on|off",
        OF_KVM,
    ),
    honoured("spinlocks@state", "on|off", OF_KVM),
    honoured(
        "spinlocks@retries",
        "",
        "how often a CPU tries to get a lock before it tells, 4095 at least",
    ),
    honoured("stimer@state", "on|off", OF_KVM),
    honoured("stimer/direct@state", "on|off", OF_KVM),
    kept("{vendor_id,reenlightenment,evmcs,avic}@state", "off", LESS),
    refused(
        "{vendor_id,reenlightenment,evmcs,avic}@state",
        "on",
        "there is no such enlightenment",
    ),
    kept("vendor_id@value", "", LESS),
];

pub(crate) const FAMILY: Family = Family::of("features/hyperv", ROWS);

/// Fewest tries that a lock can be given.
const LEAST_RETRIES: u32 = 4095;

/// Something of Hyper-V's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Enlightenment {
    /// One that is on or off: the name of its element.
    Plain(&'static str),
    /// Locks are told of after so many tries.
    Spinlocks(u32),
    /// Timers that interrupt without a message.
    StimerDirect,
    /// The clock, which is a `<timer>`.
    Clock,
}

const PLAIN: &[&str] = &[
    "relaxed",
    "vapic",
    "vpindex",
    "runtime",
    "synic",
    "stimer",
    "reset",
    "frequencies",
    "tlbflush",
    "ipi",
];

impl Enlightenment {
    /// What the guest is to see.
    pub(super) fn read(root: &Element) -> Result<Vec<Self>, Error> {
        let mut wanted = Vec::new();
        if let Some(hyperv) = root.at("features/hyperv") {
            let on = |name: &str| hyperv.child(name).filter(|element| is_on(element));
            wanted.extend(
                PLAIN
                    .iter()
                    .filter(|name| on(name).is_some())
                    .map(|name| Self::Plain(name)),
            );
            if let Some(spinlocks) = on("spinlocks") {
                wanted.push(Self::Spinlocks(retries(spinlocks)?));
            }
            if on("stimer")
                .and_then(|stimer| stimer.child("direct"))
                .is_some_and(is_on)
            {
                wanted.push(Self::StimerDirect);
            }
        }
        let is_clock =
            |timer: &&Element| timer.get("name") == Some("hypervclock") && timer.get("present") != Some("no");
        if let Some(clock) = root.child("clock")
            && clock.all("timer").any(|timer| is_clock(&timer))
        {
            wanted.push(Self::Clock);
        }
        Ok(wanted)
    }
}

fn is_on(element: &Element) -> bool {
    element.get("state") != Some("off")
}

fn retries(spinlocks: &Element) -> Result<u32, Error> {
    let retries = value::attribute::<u32>(spinlocks, "retries")?
        .ok_or_else(|| Error::missing(spinlocks.line, "spinlocks", "retries"))?;
    if retries < LEAST_RETRIES {
        let written = retries.to_string();
        return Err(Error::attribute(spinlocks.line, "spinlocks", "retries", &written));
    }
    Ok(retries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::read;

    fn enlightenments(features: &str, clock: &str) -> Result<Vec<Enlightenment>, String> {
        let xml = format!("<domain><features>{features}</features><clock>{clock}</clock></domain>");
        Enlightenment::read(&read(&xml).unwrap()).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_on_is_wanted() {
        let of_windows = "<hyperv mode='custom'><relaxed state='on'/><vapic state='on'/>\
                          <spinlocks state='on' retries='8191'/><ipi state='off'/></hyperv>";
        assert_eq!(
            enlightenments(
                of_windows,
                "<timer name='hpet' present='no'/><timer name='hypervclock' present='yes'/>"
            ),
            Ok(vec![
                Enlightenment::Plain("relaxed"),
                Enlightenment::Plain("vapic"),
                Enlightenment::Spinlocks(8191),
                Enlightenment::Clock
            ])
        );
        assert_eq!(
            enlightenments("", "<timer name='hypervclock' present='no'/>"),
            Ok(vec![])
        );
        assert_eq!(
            enlightenments(
                "<hyperv><stimer state='on'><direct state='on'/></stimer></hyperv>",
                ""
            ),
            Ok(vec![Enlightenment::Plain("stimer"), Enlightenment::StimerDirect])
        );
        assert_eq!(
            enlightenments(
                "<hyperv><stimer state='off'><direct state='on'/></stimer></hyperv>",
                ""
            ),
            Ok(vec![])
        );
    }

    #[test]
    fn locks_have_a_number_of_tries() {
        for wrong in ["", "retries='many'", "retries='4094'", "retries='4294967296'"] {
            let features = format!("<hyperv><spinlocks state='on' {wrong}/></hyperv>");
            let refused = enlightenments(&features, "").unwrap_err();
            assert!(refused.contains("retries"), "{wrong}: {refused}");
        }
        let off = "<hyperv><spinlocks state='off'/></hyperv>";
        assert_eq!(enlightenments(off, ""), Ok(vec![]));
    }
}
