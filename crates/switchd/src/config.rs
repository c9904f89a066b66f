//! The configuration file (TOML), and ports as they are described in it and on the control socket.

use std::net::IpAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ostler_switch::rstp::{BridgeConfig, StpPortConfig, Version};
use ostler_switch::{
    Flood, Mac, PortConfig, PortGroups, PortVlans, Protection, Rate, RouterPort, SnoopConfig, Storm,
    SwitchConfig, TagType, VlanId, VlanSet,
};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::Error;
use crate::place::check_name;
use crate::router::RouterSpec;

/// Longest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// A switch that can be started.
#[derive(Clone, Debug)]
pub struct Config {
    /// What it is called.
    pub name: String,
    /// Where its control socket is, if not at the usual place.
    pub control: Option<PathBuf>,
    /// The core's settings.
    pub switch: SwitchConfig,
    /// Its ports.
    pub ports: Vec<PortSpec>,
    /// Its mirrors.
    pub mirrors: Vec<MirrorSpec>,
}

/// A mirror: copies of what some ports receive and send, for one that does nothing else.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct MirrorSpec {
    /// Where copies go.
    pub to: String,
    /// Ports of whose received frames copies are made.
    #[serde(default)]
    pub ingress: Vec<String>,
    /// Ports of whose sent frames copies are made.
    #[serde(default)]
    pub egress: Vec<String>,
}

/// The file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    name: Spanned<String>,
    control: Option<PathBuf>,
    mac: Option<Spanned<String>>,
    /// Seconds.
    ageing: Option<u32>,
    fdb_entries: Option<usize>,
    /// Whether its tags are a provider's (88A8).
    #[serde(default)]
    provider: bool,
    stp: Option<Spanned<StpSpec>>,
    snooping: Option<Spanned<SnoopSpec>>,
    #[serde(default)]
    port: Vec<Spanned<PortSpec>>,
    #[serde(default)]
    mirror: Vec<Spanned<MirrorSpec>>,
}

/// The spanning tree, as far as it is not as usual.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct StpSpec {
    version: Option<StpVersion>,
    priority: Option<u16>,
    max_age: Option<u8>,
    hello: Option<u8>,
    forward_delay: Option<u8>,
    transmit_hold: Option<u8>,
}

/// IGMP and MLD snooping.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct SnoopSpec {
    /// Where; all VLANs if it is left out.
    vlans: Option<String>,
    #[serde(default)]
    querier: bool,
    address: Option<std::net::Ipv4Addr>,
    query_interval: Option<u32>,
    query_response: Option<u32>,
    robustness: Option<u8>,
    last_member: Option<u32>,
    groups: Option<usize>,
    port_groups: Option<usize>,
}

impl SnoopSpec {
    fn config(&self) -> Result<SnoopConfig, ostler_switch::Error> {
        let usual = SnoopConfig::default();
        Ok(SnoopConfig {
            vlans: self.vlans.as_deref().map_or(Ok(usual.vlans), str::parse)?,
            querier: self.querier,
            address: self.address.unwrap_or(usual.address),
            query_interval: self.query_interval.unwrap_or(usual.query_interval),
            query_response: self.query_response.unwrap_or(usual.query_response),
            robustness: self.robustness.unwrap_or(usual.robustness),
            last_member: self.last_member.unwrap_or(usual.last_member),
            groups: self.groups.unwrap_or(usual.groups),
            port_groups: self.port_groups.unwrap_or(usual.port_groups),
        })
    }
}

/// Whether a port leads to a router for groups.
#[derive(Serialize, Deserialize, Default, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Router {
    /// If one is heard there.
    #[default]
    Auto,
    /// It does.
    Always,
    /// It does not.
    Never,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "kebab-case")]
enum StpVersion {
    Rstp,
    Stp,
}

/// Whether a bridge may be behind a port.
#[derive(Serialize, Deserialize, Default, Clone, Copy, Debug, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Edge {
    /// The port finds out.
    #[default]
    Auto,
    /// None is: the port forwards at once.
    On,
    /// One is.
    Off,
}

/// A port as its user describes it. Exactly one of `tap`, `packet`, `listen`, `connect`, `vhost-user`, `vhost-user-connect`, `guest` and
/// `router` says where it leads.
#[derive(Serialize, Deserialize, Default, Clone, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PortSpec {
    /// What it is called.
    pub name: String,
    /// A tap of the host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// An interface of the host, all of whose frames are the switch's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packet: Option<String>,
    /// A unix socket where a peer with QEMU's framing may connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<PathBuf>,
    /// A unix socket to connect to, where a peer with QEMU's framing listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect: Option<PathBuf>,
    /// A unix socket where the front end of a foreign guest (QEMU's `-netdev vhost-user`) may connect.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_user: Option<PathBuf>,
    /// A unix socket to connect to, where such a front end listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vhost_user_connect: Option<PathBuf>,
    /// A guest of ours, which comes by the control socket.
    #[serde(default, skip_serializing_if = "is_false")]
    pub guest: bool,
    /// A router of ours: DHCP, names and NAT for the port's VLAN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub router: Option<Box<RouterSpec>>,
    /// The VLAN of an access port. [default: 1, unless it is a trunk]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The VLANs of a trunk, such as `1,10-20`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trunk: Option<String>,
    /// The VLAN of a trunk's untagged frames.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub native: Option<u16>,
    /// Bytes of the longest payload. [default: 1500]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Isolated ports do not reach each other.
    #[serde(default, skip_serializing_if = "is_false")]
    pub isolated: bool,
    /// Whether stations are learned. [default: true]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub learning: Option<bool>,
    /// Most stations that are learned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac_limit: Option<u32>,
    /// Whether frames to unknown stations are flooded here. [default: true]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flood: Option<bool>,
    /// Most broadcasts a second that come in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storm_broadcast: Option<u64>,
    /// The most that comes in, in kilobits a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ingress_kbit: Option<u64>,
    /// The most that goes out, in kilobits a second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_kbit: Option<u64>,
    /// Whether a bridge may be behind it.
    #[serde(default)]
    pub edge: Edge,
    /// What the path through it costs in the spanning tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_cost: Option<u32>,
    /// Its priority in the spanning tree.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// A BPDU shuts it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bpdu_guard: bool,
    /// It never leads to the root.
    #[serde(default, skip_serializing_if = "is_false")]
    pub root_guard: bool,
    /// The one address that its station may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The IP addresses that its station may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<IpAddr>>,
    /// Its station may not be a DHCP server.
    #[serde(default, skip_serializing_if = "is_false")]
    pub dhcp_client_only: bool,
    /// Its station may not be a router.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ra_guard: bool,
    /// Who leaves a group here is the only one in it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub fast_leave: bool,
    /// Whether a router for groups is there.
    #[serde(default)]
    pub multicast_router: Router,
}

fn is_false(value: &bool) -> bool {
    !value
}

/// Where a port leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Tap(String),
    Packet(String),
    Listen(PathBuf),
    Connect(PathBuf),
    VhostUser(PathBuf),
    VhostUserConnect(PathBuf),
    Guest,
    Router(Box<RouterSpec>),
}

impl Source {
    /// What kind it is, and where.
    pub fn describe(&self) -> (&'static str, Option<String>) {
        match self {
            Self::Tap(name) => ("tap", Some(name.clone())),
            Self::Packet(name) => ("packet", Some(name.clone())),
            Self::Listen(path) => ("listen", Some(path.display().to_string())),
            Self::Connect(path) => ("connect", Some(path.display().to_string())),
            Self::VhostUser(path) => ("vhost-user", Some(path.display().to_string())),
            Self::VhostUserConnect(path) => ("vhost-user-connect", Some(path.display().to_string())),
            Self::Guest => ("guest", None),
            Self::Router(router) => ("router", Some(router.address.clone())),
        }
    }

    /// Whether its frames are in memory that can be looked at without asking the kernel.
    pub fn has_ring(&self) -> bool {
        matches!(
            self,
            Self::Guest | Self::Packet(_) | Self::VhostUser(_) | Self::VhostUserConnect(_)
        )
    }
}

impl PortSpec {
    /// Where it leads.
    pub(crate) fn source(&self) -> Result<Source, Error> {
        let given = [
            self.tap.clone().map(Source::Tap),
            self.packet.clone().map(Source::Packet),
            self.listen.clone().map(Source::Listen),
            self.connect.clone().map(Source::Connect),
            self.vhost_user.clone().map(Source::VhostUser),
            self.vhost_user_connect.clone().map(Source::VhostUserConnect),
            self.guest.then_some(Source::Guest),
            self.router.clone().map(Source::Router),
        ];
        let mut given = given.into_iter().flatten();
        match (given.next(), given.next()) {
            (Some(source), None) => Ok(source),
            _ => Err(Error::port(
                &self.name,
                "it needs exactly one of tap, packet, listen, connect, vhost-user, vhost-user-connect, guest and router",
            )),
        }
    }

    /// The core's settings for it.
    pub(crate) fn config(&self) -> Result<PortConfig, Error> {
        let refused = |error: ostler_switch::Error| Error::port(&self.name, error);
        check_name(&self.name)?;
        if let Some(router) = &self.router {
            if self.trunk.is_some() {
                return Err(Error::port(
                    &self.name,
                    "a router is in one VLAN; give vlan instead of trunk",
                ));
            }
            router.config().map_err(|error| Error::port(&self.name, error))?;
        }
        let vlans = match (self.vlan, &self.trunk) {
            (Some(_), Some(_)) => {
                return Err(Error::port(&self.name, "it has both vlan and trunk; choose one"));
            }
            (vlan, None) if self.native.is_none() => {
                let vlan = vlan.map_or(Ok(VlanId::DEFAULT), VlanId::new);
                PortVlans::access(vlan.map_err(refused)?)
            }
            (_, None) => {
                return Err(Error::port(
                    &self.name,
                    "only a trunk has a native VLAN; give trunk too",
                ));
            }
            (None, Some(list)) => {
                let list: VlanSet = list.parse().map_err(refused)?;
                let native = self.native.map(VlanId::new).transpose().map_err(refused)?;
                PortVlans::trunk(list, native)
            }
        };
        let per_second = |number: u64| Rate {
            per_second: number,
            burst: number,
        };
        let stp = StpPortConfig::default();
        let mac = self.mac.as_ref().map(|text| text.parse::<Mac>());
        Ok(PortConfig {
            mtu: self.mtu.unwrap_or(1500),
            isolated: self.isolated,
            learning: self.learning.unwrap_or(true),
            mac_limit: self.mac_limit,
            flood: Flood {
                unknown: self.flood.unwrap_or(true),
                ..Flood::default()
            },
            storm: Storm {
                broadcast: self.storm_broadcast.map(per_second),
                ..Storm::default()
            },
            ingress_rate: self.ingress_kbit.map(rate),
            egress_rate: self.egress_kbit.map(rate),
            stp: StpPortConfig {
                path_cost: self.path_cost.unwrap_or(stp.path_cost),
                priority: self.priority.unwrap_or(stp.priority),
                admin_edge: self.edge == Edge::On,
                auto_edge: self.edge == Edge::Auto,
                bpdu_guard: self.bpdu_guard,
                root_guard: self.root_guard,
                ..stp
            },
            protection: Protection {
                mac: mac.transpose().map_err(refused)?,
                addresses: self.addresses.clone(),
                dhcp_client_only: self.dhcp_client_only,
                ra_guard: self.ra_guard,
            },
            groups: PortGroups {
                fast_leave: self.fast_leave,
                router: match self.multicast_router {
                    Router::Auto => RouterPort::Auto,
                    Router::Always => RouterPort::Always,
                    Router::Never => RouterPort::Never,
                },
            },
            ..PortConfig::new(vlans)
        })
    }
}

/// Kilobits a second in bytes, with a burst of a tenth of a second, at least two of the largest frames.
fn rate(kilobits: u64) -> Rate {
    let per_second = kilobits.saturating_mul(125);
    Rate {
        per_second,
        burst: (per_second / 10).max(128 << 10),
    }
}

impl Config {
    /// Reads the file at `path`. An error refuses it whole, and says in which line it is.
    pub fn read(path: &Path) -> Result<Self, Error> {
        use std::io::Read;
        let failed = |source| Error::Read {
            path: path.into(),
            source,
        };
        let mut text = String::new();
        let file = std::fs::File::open(path).map_err(failed)?;
        file.take(MAX_FILE + 1)
            .read_to_string(&mut text)
            .map_err(failed)?;
        if text.len() as u64 > MAX_FILE {
            return Err(failed(std::io::Error::other("it is longer than 1 MiB")));
        }
        Self::parse(&text).map_err(|(at, reason)| Error::Config {
            path: path.into(),
            line: 1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count(),
            reason,
        })
    }

    /// Understands the text of a file; or says at which byte it is wrong, and why.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            (at, error.message().trim().replace('\n', " "))
        })?;
        let at = |span: Range<usize>, error: &dyn std::fmt::Display| (span.start, error.to_string());
        let name = file.name.get_ref().clone();
        check_name(&name).map_err(|error| at(file.name.span(), &error))?;
        let mac = match &file.mac {
            Some(mac) => mac.get_ref().parse().map_err(|error| at(mac.span(), &error))?,
            None => derived_mac(&name),
        };
        let mut switch = SwitchConfig::new(mac);
        switch.ageing = file.ageing.unwrap_or(switch.ageing);
        switch.fdb_entries = file.fdb_entries.unwrap_or(switch.fdb_entries);
        if file.provider {
            switch.tags = TagType::Service;
        }
        let try_it = |switch: &SwitchConfig| {
            ostler_switch::Switch::new(switch.clone(), [0; 2], ostler_switch::Time::default())
        };
        let start = file.mac.as_ref().map_or(file.name.span(), Spanned::span);
        let mut trial = try_it(&switch).map_err(|error| at(start, &error))?;
        if let Some(stp) = &file.stp {
            switch.spanning_tree = Some(stp.get_ref().bridge(BridgeConfig::default()));
            try_it(&switch).map_err(|error| at(stp.span(), &error))?;
        }
        if let Some(snooping) = &file.snooping {
            let config = snooping.get_ref().config();
            switch.snooping = Some(config.map_err(|error| at(snooping.span(), &error))?);
            try_it(&switch).map_err(|error| at(snooping.span(), &error))?;
        }
        let mut ports: Vec<PortSpec> = Vec::new();
        for port in file.port {
            let span = port.span();
            let port = port.into_inner();
            port.source().map_err(|error| at(span.clone(), &error))?;
            let config = port.config().map_err(|error| at(span.clone(), &error))?;
            trial.add_port(config).map_err(|error| {
                let error = Error::port(&port.name, error);
                at(span.clone(), &error)
            })?;
            if ports.iter().any(|other| other.name == port.name) {
                let error = Error::port(&port.name, "there is another port of that name");
                return Err(at(span, &error));
            }
            ports.push(port);
        }
        let mut mirrors = Vec::new();
        for mirror in file.mirror {
            let span = mirror.span();
            let mirror = mirror.into_inner();
            let named = [&mirror.to]
                .into_iter()
                .chain(&mirror.ingress)
                .chain(&mirror.egress);
            for name in named.clone() {
                if !ports.iter().any(|port| port.name == *name) {
                    let error = Error::port(name, "a mirror names it, and it is not there");
                    return Err(at(span, &error));
                }
            }
            if named.skip(1).any(|name| *name == mirror.to) {
                let error = Error::port(&mirror.to, "it cannot be mirrored to itself");
                return Err(at(span, &error));
            }
            mirrors.push(mirror);
        }
        Ok(Self {
            name,
            control: file.control,
            switch,
            ports,
            mirrors,
        })
    }
}

impl StpSpec {
    /// The settings that these make of the `usual` ones.
    pub(crate) fn bridge(&self, usual: BridgeConfig) -> BridgeConfig {
        BridgeConfig {
            version: match self.version {
                Some(StpVersion::Rstp) => Version::Rstp,
                Some(StpVersion::Stp) => Version::Stp,
                None => usual.version,
            },
            priority: self.priority.unwrap_or(usual.priority),
            max_age: self.max_age.unwrap_or(usual.max_age),
            hello: self.hello.unwrap_or(usual.hello),
            forward_delay: self.forward_delay.unwrap_or(usual.forward_delay),
            transmit_hold: self.transmit_hold.unwrap_or(usual.transmit_hold),
            ..usual
        }
    }
}

/// An address of the locally administered kind that a name always has (FNV-1a).
fn derived_mac(name: &str) -> Mac {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Mac::from_u64(hash >> 8 & 0xfcff_ffff_ffff | 0x0200_0000_0000)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_whole_configuration() {
        let config = Config::parse(
            "name = \"lan\"\nmac = \"02:00:00:00:00:01\"\nageing = 60\n\
             [stp]\nversion = \"stp\"\npriority = 4096\n\
             [[port]]\nname = \"up\"\ntap = \"tap0\"\ntrunk = \"1,10-20\"\nnative = 1\nedge = \"off\"\n\
             [[port]]\nname = \"vm\"\nvhost-user = \"/run/vm.sock\"\n\
             [[port]]\nname = \"wm\"\nvhost-user-connect = \"/run/wm.sock\"\n\
             [[port]]\nname = \"web\"\nguest = true\nvlan = 10\nmac = \"52:54:00:00:00:01\"\naddresses = [\"10.0.0.1\", \"fe80::1\"]\n",
        )
        .unwrap();
        assert_eq!((config.ports.len(), config.switch.ageing), (4, 60));
        assert_eq!(config.switch.spanning_tree.unwrap().version, Version::Stp);
        assert_eq!(config.ports[0].source().unwrap(), Source::Tap("tap0".into()));
        let places: Vec<_> = config.ports[1..3]
            .iter()
            .map(|port| port.source().unwrap())
            .collect();
        assert_eq!(places[0], Source::VhostUser("/run/vm.sock".into()));
        assert_eq!(places[1], Source::VhostUserConnect("/run/wm.sock".into()));
        let web = config.ports[3].config().unwrap();
        assert_eq!(web.vlans, PortVlans::access(VlanId::new(10).unwrap()));
        assert_eq!(web.protection.addresses.unwrap().len(), 2);
    }

    /// Each wrong line of an otherwise good file is named, with the reason.
    #[test]
    fn errors_say_where_they_are() {
        let good = |extra: &str| {
            format!("name = \"lan\"\n[stp]\npriority = 4096\n[[port]]\nname = \"a\"\nguest = true\n{extra}\n")
        };
        assert!(Config::parse(&good("")).is_ok());
        let wrong = [
            ("x\nname = \"lan\"", 1, "key with no value"),
            ("name = \"lan\"\nspeed = 9\n", 2, "unknown field `speed`"),
            ("ageing = 300\n", 1, "missing field `name`"),
            ("name = \"a b\"\n", 1, "no name"),
            ("name = \"lan\"\nmac = \"02:00\"\n", 2, "no MAC address"),
            ("name = \"lan\"\n\n[stp]\npriority = 5\n", 3, "multiple of 4096"),
            (
                "name = \"lan\"\n\n[snooping]\nrobustness = 1\n",
                3,
                "the robustness is 1",
            ),
            (
                "name = \"lan\"\n[snooping]\nvlans = \"5-1\"\n",
                2,
                "no list of VLANs",
            ),
            (
                "name = \"lan\"\n[stp]\nversion = \"mstp\"\n",
                3,
                "unknown variant",
            ),
            (&good("vlan = 4095"), 4, "VLAN 4095 does not exist"),
            (&good("vlan = 70000"), 7, "invalid value"),
            (&good("vlan = 1\ntrunk = \"1\""), 4, "both vlan and trunk"),
            (&good("native = 1"), 4, "only a trunk"),
            (&good("trunk = \"5-1\""), 4, "no list of VLANs"),
            (&good("tap = \"t\""), 4, "exactly one of"),
            (&good("vhost-user = \"/s\""), 4, "exactly one of"),
            (
                &good("[[mirror]]\nto = \"a\"\ningress = [\"b\"]"),
                7,
                "port \"b\": a mirror names it",
            ),
            (
                &good("[[mirror]]\nto = \"a\"\negress = [\"a\"]"),
                7,
                "mirrored to itself",
            ),
            (&good("mtu = 5"), 4, "the MTU is 5"),
            (
                &good("router = { address = \"10.0.0.1/24\" }"),
                4,
                "exactly one of",
            ),
            (
                "name = \"lan\"\n[[port]]\nname = \"r\"\n[port.router]\naddress = \"10.0.0.1\"\n",
                2,
                "no address of a router",
            ),
            (
                "name = \"lan\"\n[[port]]\nname = \"r\"\ntrunk = \"1-2\"\nrouter = { address = \"10.0.0.1/8\" }\n",
                2,
                "in one VLAN",
            ),
            (
                "name = \"lan\"\n[[port]]\nname = \"r\"\n[port.router]\naddress = \"10.0.0.1/8\"\ngate = 1\n",
                6,
                "unknown field `gate`",
            ),
            (&good("vlan = \"x\""), 7, "invalid type"),
            (
                &good("[[port]]\nname = \"a\"\nguest = true"),
                7,
                "another port of that name",
            ),
        ];
        for (text, line, reason) in wrong {
            let (at, said) = Config::parse(text).unwrap_err();
            let found = 1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count();
            assert!(said.contains(reason), "{text:?}: {said}");
            assert_eq!(found, line, "{text:?}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_refused(text in "[a-z\\[\\]=\"0-9\n,. {}#-]{0,200}", keep in 0usize..150) {
            let _ = Config::parse(&text);
            let good = "name = \"lan\"\n[[port]]\nname = \"a\"\nguest = true\ntrunk = \"1,4-9\"\nnative = 4\nmtu = 9000\n";
            let keep = keep.min(good.len());
            let _ = Config::parse(&format!("{}{text}", &good[..keep]));
        }
    }
}
