//! How many CPUs: `<vcpu>`, `<vcpus>`, `<iothreads>`.

use std::collections::BTreeMap;

use crate::table::{Family, Row, honoured, kept, refused};
use crate::tree::Element;
use crate::{Error, value};

const ROWS: &[Row] = &[
    honoured("vcpu", "", "most CPUs"),
    kept("vcpu@placement", "static|auto", "there is no numad to ask"),
    honoured("vcpu@cpuset", "", "host CPUs that vCPU threads may run on"),
    honoured("vcpu@current", "", "CPUs at the start"),
    honoured(
        "vcpus/vcpu@{id,enabled}",
        "",
        "which of them are there at the start; 0 always is",
    ),
    kept(
        "vcpus/vcpu@{hotpluggable,order}",
        "",
        "all but the first come and go where there are more than at the start",
    ),
    kept("iothreads", "", "each queue has a worker of its own"),
    kept("iothreadids", "", "").whole(),
    kept("defaultiothread", "", "").whole(),
    refused("bootloader", "", "of another hypervisor"),
    refused("bootloader_args", "", "of another hypervisor"),
];

pub(crate) const FAMILY: Family = Family::root("Number of CPUs", ROWS);

/// Most CPUs that a document may ask for; a machine has less.
const MAX: u32 = 4096;

/// CPUs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vcpus {
    /// Most that it can have.
    pub max: u32,
    /// Those at the start, or those that are there.
    pub current: u32,
    /// Their numbers, ascending; none where they are the first ones.
    listed: Option<Vec<u32>>,
    /// Host CPUs that their threads may run on; empty for all.
    pub cpuset: String,
}

/// One CPU, if nothing else is said; `current` goes where it says what is so anyway, and follows a list of CPUs where there is one.
pub(crate) fn fill(root: &mut Element) {
    let listed = root
        .child("vcpus")
        .map(|list| list.all("vcpu").filter(|vcpu| is_there(vcpu)).count());
    let vcpu = root.child_or_new("vcpu");
    vcpu.set_default("placement", "static");
    if vcpu.text().is_empty() {
        vcpu.set_text("1");
    }
    if let Some(count) = listed {
        vcpu.set("current", count.to_string());
    }
    if vcpu.get("current") == Some(&vcpu.text()) {
        vcpu.unset("current");
    }
}

fn is_there(vcpu: &Element) -> bool {
    vcpu.get("enabled") == Some("yes")
}

/// The numbers of the CPUs that a list says are there.
fn listed(list: &Element, max: u32) -> Result<Vec<u32>, Error> {
    let mut known = BTreeMap::new();
    for vcpu in list.all("vcpu") {
        let id: u32 = value::attribute(vcpu, "id")?.ok_or_else(|| Error::missing(vcpu.line, "vcpu", "id"))?;
        if id >= max {
            return Err(Error::Xml(format!(
                "exceeding vcpu id ('{id}' >= '{max}', line {})",
                vcpu.line
            )));
        }
        if known.insert(id, is_there(vcpu)).is_some() {
            return Err(Error::Xml(format!(
                "vcpu '{id}' is listed twice (line {})",
                vcpu.line
            )));
        }
    }
    let there: Vec<u32> = known
        .into_iter()
        .filter(|(_, there)| *there)
        .map(|(id, _)| id)
        .collect();
    match there.first() {
        Some(0) => Ok(there),
        _ => Err(Error::Xml(format!(
            "vcpu '0' must be enabled (line {})",
            list.line
        ))),
    }
}

impl Vcpus {
    /// The numbers of the CPUs that are there, ascending.
    pub fn there(&self) -> Vec<u32> {
        self.listed.clone().unwrap_or_else(|| (0..self.current).collect())
    }

    /// How many of them are the first ones, without a gap.
    pub fn without_gap(&self) -> u32 {
        let there = self.there();
        let first = there
            .iter()
            .enumerate()
            .take_while(|(at, id)| *at == **id as usize);
        first.count() as u32
    }

    /// Writes into a document which CPUs there are.
    pub fn write_there(root: &mut Element, there: &[u32]) {
        let vcpu = root.child_or_new("vcpu");
        let max = value::number::<u32>(&vcpu.text()).unwrap_or(1).min(MAX);
        vcpu.set("current", there.len().to_string());
        root.remove_elements(|element| element.name == "vcpus");
        // Where all are there, and where the first are, their number says it.
        if there.iter().enumerate().all(|(at, id)| at == *id as usize) {
            return;
        }
        let list = root.child_or_new("vcpus");
        for id in 0..max {
            let yes_or_no = |is_so: bool| if is_so { "yes" } else { "no" };
            let vcpu = Element::new("vcpu")
                .with("id", id.to_string())
                .with("enabled", yes_or_no(there.contains(&id)))
                .with("hotpluggable", yes_or_no(id != 0));
            *list = std::mem::take(list).with_child(vcpu);
        }
    }

    pub(crate) fn read(root: &Element) -> Result<Self, Error> {
        let Some(vcpu) = root.child("vcpu") else {
            return Err(Error::Xml("missing vcpu element".into()));
        };
        let text = vcpu.text();
        let max = value::number(&text).filter(|max| (1..=MAX).contains(max));
        let max = max.ok_or_else(|| Error::text(vcpu.line, "vcpu", &text))?;
        let current = value::attribute(vcpu, "current")?.unwrap_or(max);
        if current == 0 || current > max {
            return Err(Error::Xml(format!(
                "maxvcpus must not be less than current vcpus ({max} < {current})"
            )));
        }
        let listed = root.child("vcpus").map(|list| listed(list, max)).transpose()?;
        Ok(Self {
            max,
            current,
            listed,
            cpuset: vcpu.get("cpuset").unwrap_or_default().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::read;

    fn vcpus(text: &str) -> Result<Vcpus, String> {
        let mut root = read(text).unwrap();
        fill(&mut root);
        Vcpus::read(&root).map_err(|error| error.to_string())
    }

    #[test]
    fn a_list_says_which_cpus_are_there() {
        let first = vcpus("<domain><vcpu current='2'>4</vcpu></domain>").unwrap();
        assert_eq!((first.there(), first.without_gap()), (vec![0, 1], 2));
        let list = "<domain><vcpu>4</vcpu><vcpus><vcpu id='3' enabled='yes'/><vcpu id='1' enabled='no'/>\
            <vcpu id='0' enabled='yes'/></vcpus></domain>";
        let gap = vcpus(list).unwrap();
        assert_eq!((gap.current, gap.there(), gap.without_gap()), (2, vec![0, 3], 1));
        for (wrong, says) in [
            ("<vcpu id='4' enabled='yes'/>", "exceeding"),
            ("<vcpu id='0' enabled='yes'/><vcpu id='0' enabled='no'/>", "twice"),
            ("<vcpu id='1' enabled='yes'/>", "'0' must be enabled"),
            ("<vcpu enabled='yes'/>", "id"),
        ] {
            let said = vcpus(&format!("<domain><vcpu>4</vcpu><vcpus>{wrong}</vcpus></domain>")).unwrap_err();
            assert!(said.contains(says), "{says}: {said}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for there in [vec![0], vec![0, 1], vec![0, 2], vec![0, 1, 2, 3]] {
            let mut root = read("<domain><vcpu current='3'>4</vcpu></domain>").unwrap();
            Vcpus::write_there(&mut root, &there);
            assert_eq!(root.child("vcpus").is_some(), there == [0, 2]);
            fill(&mut root);
            assert_eq!(Vcpus::read(&root).unwrap().there(), there);
        }
    }
}
