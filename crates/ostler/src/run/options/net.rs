//! `--net`.

use std::path::PathBuf;

use ostler_hostnet::MacvtapMode;
use ostler_vmm::spec::{MacAddress, NetModel, PciPlace};

use super::pci::parse_place;
use crate::run::user_net::UserNet;

/// A network card as the user describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CardOption {
    /// What it is to the guest.
    pub model: NetModel,
    /// Where its frames go.
    pub net: NetOption,
    /// Where it is on PCI, if the user says.
    pub place: Option<PciPlace>,
}

/// Where a network card's frames go, as the user describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetOption {
    None,
    Tap(TapOption),
    Direct(DirectOption),
    Socket { path: PathBuf, mac: Option<MacAddress> },
    User(UserNet),
    Switch(SwitchOption),
    VhostUser(VhostUserOption),
}

/// A card at a tap.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TapOption {
    /// The interface's name.
    pub name: String,
    pub mac: Option<MacAddress>,
    /// The guest leaves no checksum and no segments to the tap, and gets none left to it.
    pub whole: bool,
}

/// A card that is a macvtap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectOption {
    /// The interface of the host that it is on.
    pub over: String,
    /// How.
    pub mode: MacvtapMode,
    pub mac: Option<MacAddress>,
}

/// A card whose other end is a back end of vhost-user.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VhostUserOption {
    /// Where the back end listens, or connects to.
    pub path: PathBuf,
    /// It connects to us.
    pub listens: bool,
    pub mac: Option<MacAddress>,
}

/// A card at a switch.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SwitchOption {
    /// The switch's name, or the path of its control socket.
    pub switch: String,
    /// What the port is to be called.
    pub port: Option<String>,
    pub vlan: Option<u16>,
    pub trunk: Option<String>,
    pub native: Option<u16>,
    pub mac: Option<MacAddress>,
}

/// Longest name of a network interface, in bytes (IFNAMSIZ with its zero).
const MAX_INTERFACE: usize = 15;

pub(super) fn parse_card(text: &str) -> Result<CardOption, String> {
    let (mut model, mut place, mut rest) = (NetModel::Virtio, None, Vec::new());
    for (index, word) in text.split(',').enumerate() {
        if let Some(text) = word.strip_prefix("addr=").filter(|_| index > 0) {
            place = Some(parse_place(text)?);
            continue;
        }
        match word.strip_prefix("model=").filter(|_| index > 0) {
            Some("virtio") => model = NetModel::Virtio,
            Some("e1000e") => model = NetModel::E1000e,
            Some(other) => {
                return Err(format!(
                    "there is no network card \"{other}\"; virtio and e1000e are known"
                ));
            }
            None => rest.push(word),
        }
    }
    let net = parse_net(&rest.join(","))?;
    Ok(CardOption { model, net, place })
}

fn parse_net(text: &str) -> Result<NetOption, String> {
    if text == "none" {
        return Ok(NetOption::None);
    }
    if let Some(rest) = text.strip_prefix("user")
        && (rest.is_empty() || rest.starts_with(','))
    {
        return UserNet::parse(rest).map(NetOption::User);
    }
    let usage = || {
        format!(
            "\"{text}\" is no network card; write user[,...], switch=NAME[,vlan=N][,mac=M], tap=NAME[,mac=M][,offload=off], direct=INTERFACE[,mode=bridge][,mac=M], vhost-user=PATH[,mode=server][,mac=M], socket=PATH[,mac=M] or none"
        )
    };
    let (kind, rest) = text.split_once('=').ok_or_else(usage)?;
    if kind == "switch" {
        return parse_switch(rest).map(NetOption::Switch);
    }
    if kind == "tap" {
        return parse_tap(rest).map(NetOption::Tap);
    }
    if kind == "direct" {
        return parse_direct(rest).map(NetOption::Direct);
    }
    if kind == "vhost-user" {
        return parse_vhost_user(rest).map(NetOption::VhostUser);
    }
    let (place, mac) = match rest.rsplit_once(",mac=") {
        Some((place, mac)) => (place, Some(mac.parse()?)),
        None => (rest, None),
    };
    match kind {
        "socket" if !place.is_empty() => Ok(NetOption::Socket {
            path: place.into(),
            mac,
        }),
        _ => Err(usage()),
    }
}

/// The name of an interface, as the kernel takes it.
fn interface(name: &str) -> Result<&str, String> {
    let bad = |b: u8| b <= b' ' || matches!(b, b'/' | b':' | b'%' | 0x7f);
    if name.is_empty() || name.len() > MAX_INTERFACE || name.bytes().any(bad) {
        return Err(format!(
            "\"{name}\" is no interface name of 1 to {MAX_INTERFACE} characters"
        ));
    }
    Ok(name)
}

fn parse_direct(text: &str) -> Result<DirectOption, String> {
    let mut words = text.split(',');
    let mut option = DirectOption {
        over: interface(words.next().unwrap_or_default())?.into(),
        mode: MacvtapMode::Bridge,
        mac: None,
    };
    for word in words {
        match word.split_once('=') {
            Some(("mac", mac)) => option.mac = Some(mac.parse()?),
            Some(("mode", mode)) => {
                option.mode = mode
                    .parse()
                    .map_err(|error: ostler_hostnet::Error| error.to_string())?;
            }
            _ => {
                return Err(format!(
                    "a card on an interface of the host has no option \"{word}\"; mode and mac are known"
                ));
            }
        }
    }
    Ok(option)
}

fn parse_tap(text: &str) -> Result<TapOption, String> {
    let mut words = text.split(',');
    let name = interface(words.next().unwrap_or_default())?;
    let mut option = TapOption {
        name: name.into(),
        ..TapOption::default()
    };
    for word in words {
        match word.split_once('=') {
            Some(("mac", mac)) => option.mac = Some(mac.parse()?),
            Some(("offload", "on")) => option.whole = false,
            Some(("offload", "off")) => option.whole = true,
            _ => {
                return Err(format!(
                    "a card at a tap has no option \"{word}\"; mac and offload=on|off are known"
                ));
            }
        }
    }
    Ok(option)
}

fn parse_vhost_user(text: &str) -> Result<VhostUserOption, String> {
    let mut words = text.split(',');
    let mut option = VhostUserOption {
        path: words.next().unwrap_or_default().into(),
        ..VhostUserOption::default()
    };
    if option.path.as_os_str().is_empty() {
        return Err("vhost-user= needs the path of a socket".into());
    }
    for word in words {
        match word.split_once('=') {
            Some(("mac", mac)) => option.mac = Some(mac.parse()?),
            Some(("mode", "client")) => option.listens = false,
            Some(("mode", "server")) => option.listens = true,
            _ => {
                return Err(format!(
                    "a card with a vhost-user back end has no option \"{word}\"; mode=client|server and mac are known"
                ));
            }
        }
    }
    Ok(option)
}

fn parse_switch(text: &str) -> Result<SwitchOption, String> {
    let mut words = text.split(',');
    let mut option = SwitchOption {
        switch: words.next().unwrap_or_default().into(),
        ..SwitchOption::default()
    };
    ostler_switchd::control_path(&option.switch).map_err(|error| error.to_string())?;
    let number = |text: &str| -> Result<u16, String> {
        let number = text.parse().ok().filter(|number| (1..=4094).contains(number));
        number.ok_or_else(|| format!("\"{text}\" is no VLAN; VLANs are numbered 1 to 4094"))
    };
    for word in words {
        match word.split_once('=') {
            Some(("vlan", vlan)) => option.vlan = Some(number(vlan)?),
            Some(("native", vlan)) => option.native = Some(number(vlan)?),
            // Commas separate options.
            Some(("trunk", list)) => option.trunk = Some(list.replace(':', ",")),
            Some(("port", name)) => {
                ostler_switchd::check_name(name).map_err(|error| error.to_string())?;
                option.port = Some(name.into());
            }
            Some(("mac", mac)) => option.mac = Some(mac.parse()?),
            _ => {
                return Err(format!(
                    "a card at a switch has no option \"{word}\"; vlan, trunk, native, port and mac are known"
                ));
            }
        }
    }
    Ok(option)
}
