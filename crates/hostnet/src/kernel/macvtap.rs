//! Macvtaps: interfaces of guests on top of one of the host's, without a bridge (`<linux/if_link.h>`, IFLA_MACVLAN).

use std::str::FromStr;

use super::link;
use super::unsupported;
use crate::netlink::constants::*;
use crate::netlink::{Netlink, Request};
use crate::{Error, Mac, check_name};

/// Whom a guest reaches beside those behind the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacvtapMode {
    /// Others on the same interface only by way of a switch that sends frames back.
    Vepa,
    /// Others on the same interface that are in this mode, directly.
    Bridge,
    /// Nobody on the same interface.
    Private,
    /// The interface is the guest's alone, and has its address while it has it.
    Passthrough,
}

impl MacvtapMode {
    fn number(self) -> u32 {
        match self {
            Self::Private => 1,
            Self::Vepa => 2,
            Self::Bridge => 4,
            Self::Passthrough => 8,
        }
    }
}

impl FromStr for MacvtapMode {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Ok(match text {
            "bridge" => Self::Bridge,
            "private" => Self::Private,
            "vepa" => Self::Vepa,
            "passthrough" => Self::Passthrough,
            other => return Err(Error::MacvtapMode(other.into())),
        })
    }
}

/// A macvtap to be made.
#[derive(Clone, Debug)]
pub struct MacvtapSpec {
    /// The interface's name.
    pub name: String,
    /// The interface of the host that it is on.
    pub over: String,
    /// How.
    pub mode: MacvtapMode,
    /// The guest's address.
    pub mac: Mac,
    /// What is written on it, by which who made it knows it again.
    pub alias: Option<String>,
}

/// A macvtap that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Macvtap {
    /// The interface's name.
    pub name: String,
    /// Its number, which no other gets until it is gone.
    pub index: u32,
    /// What is written on it.
    pub alias: String,
}

/// All of them.
pub(super) fn list(netlink: &mut Netlink) -> Result<Vec<Macvtap>, Error> {
    let links = link::links(netlink)?.into_iter();
    let macvtap = |link: link::Link| Macvtap {
        name: link.name,
        index: link.index,
        alias: link.alias,
    };
    Ok(links.filter(|link| link.kind == "macvtap").map(macvtap).collect())
}

/// Ends it, whoever has it open.
pub(super) fn delete(netlink: &mut Netlink, macvtap: &Macvtap) -> Result<(), Error> {
    let what = format!("deleting the macvtap {}", macvtap.name);
    netlink.change(&what, &link::delete_number(macvtap.index))
}

/// Makes it, switched on, and returns its number; on a failure there is none. The interface below is switched on too, and stays so.
pub(super) fn create(netlink: &mut Netlink, spec: &MacvtapSpec) -> Result<u32, Error> {
    let name = check_name(&spec.name)?;
    let links = link::links(netlink)?;
    if links.iter().any(|l| l.name == name) {
        return Err(Error::Exists(name.into()));
    }
    let over = links.iter().find(|l| l.name == spec.over);
    let over = over.ok_or_else(|| Error::NoInterface(spec.over.clone()))?;
    let made = netlink.transaction(|transaction| {
        let mut request = Request::link(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, 0, 0)
            .text(IFLA_IFNAME, name)
            .u32(IFLA_LINK, over.index);
        // In this mode it begins with the address of the interface below, and that follows it.
        if spec.mode != MacvtapMode::Passthrough {
            request = request.bytes_of(IFLA_ADDRESS, &spec.mac.0);
        }
        let request = request.nest(IFLA_LINKINFO, |r| {
            r.text(IFLA_INFO_KIND, "macvtap")
                .nest(IFLA_INFO_DATA, |r| r.u32(IFLA_MACVLAN_MODE, spec.mode.number()))
        });
        let what = format!("making the macvtap {name} on {}", spec.over);
        transaction.step(what, &request, Some(link::delete(name)))?;
        let made = link::link(transaction.netlink(), name)?;
        if let Some(alias) = &spec.alias {
            let what = format!("marking {name}");
            transaction.step(what, &link::set_alias(made.index, alias), None)?;
        }
        if spec.mode == MacvtapMode::Passthrough {
            let mac = link::set_mac(made.index, spec.mac);
            transaction.step(
                format!("giving {} the address {}", spec.over, spec.mac),
                &mac,
                None,
            )?;
        }
        for (index, name) in [(over.index, &*spec.over), (made.index, name)] {
            transaction.step(format!("switching {name} on"), &link::switch(index, true), None)?;
        }
        Ok(made.index)
    });
    match made {
        Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => Err(unsupported(format!(
            "macvtaps are not in this kernel ({error}); `modprobe macvtap` may load them"
        ))),
        other => other.map(|(index, _)| index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_known_by_their_names() {
        // <linux/if_link.h>, MACVLAN_MODE_*.
        for (name, number) in [("private", 1), ("vepa", 2), ("bridge", 4), ("passthrough", 8)] {
            assert_eq!(name.parse::<MacvtapMode>().unwrap().number(), number);
        }
        for name in ["", "Bridge", "source", "passthru"] {
            assert!(
                matches!(name.parse::<MacvtapMode>(), Err(Error::MacvtapMode(_))),
                "{name}"
            );
        }
    }
}
