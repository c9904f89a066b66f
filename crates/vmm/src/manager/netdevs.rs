//! Network back ends by name: where the frames of cards go that are plugged in later.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use ostler_netio::{NetBackend, OpenTap, SocketNet, SwitchNet, Tap};
use ostler_vhost_user::card::CardNet;

use super::fdsets::ClientFds;
use super::nodes::is_identifier;
use crate::control::{Arguments, Failure};

/// Most back ends of a guest.
const MAX_NETDEVS: usize = 64;
/// Most queue pairs of one.
const MAX_PAIRS: usize = 8;

/// A network back end.
pub(crate) struct Netdev {
    pub id: String,
    /// "tap", "socket", "stream", "vhost-user" or "switch".
    pub kind: &'static str,
    pub backend: Arc<dyn NetBackend>,
    /// Id of the card that uses it.
    pub card: Option<String>,
    /// It was there from the start.
    built: bool,
}

/// All back ends.
#[derive(Default)]
pub(crate) struct Netdevs(Vec<Netdev>);

impl Netdevs {
    pub fn iter(&self) -> impl Iterator<Item = &Netdev> {
        self.0.iter()
    }

    pub fn get(&self, id: &str) -> Option<&Netdev> {
        self.0.iter().find(|netdev| netdev.id == id)
    }

    /// The back end of a card that the guest was built with.
    pub fn built(&mut self, id: &str, kind: &'static str, backend: Arc<dyn NetBackend>) {
        let card = Some(id.to_owned());
        let id = id.to_owned();
        self.0.push(Netdev {
            id,
            kind,
            backend,
            card,
            built: true,
        });
    }

    /// `netdev_add`. `vhost` says whether the kernel's workers may be used.
    pub fn add(&mut self, mut arguments: Arguments, fds: &mut ClientFds, vhost: bool) -> Result<(), Failure> {
        let id = arguments.string("id")?;
        let kind = arguments.string("type")?;
        let (kind, wish) = match &*kind {
            "tap" => ("tap", read_tap(&mut arguments)?),
            "socket" => {
                let name = arguments.string("fd")?;
                let headers = arguments.boolean_if_given("x-ostler-headers")?.unwrap_or(false);
                ("socket", Wish::Socket { name, headers })
            }
            "stream" => ("stream", read_stream(&mut arguments)?),
            "x-ostler-switch" => {
                let plug = arguments.string("fd")?;
                ("switch", Wish::Switch { plug })
            }
            "vhost-user" => {
                let plug = arguments.string("plugfd")?;
                ("vhost-user", Wish::VhostUser { plug })
            }
            _ => return Err(Failure::not_accepted("type", &kind)),
        };
        arguments.finish()?;
        if !is_identifier(&id) {
            return Err(Failure::expects("id", "an identifier"));
        }
        if self.get(&id).is_some() {
            return Err(Failure::generic(format!("Duplicate ID '{id}' for netdev")));
        }
        if self.0.len() >= MAX_NETDEVS {
            return Err(Failure::generic(format!(
                "there are {MAX_NETDEVS} netdevs; remove some"
            )));
        }
        let backend = wish.realize(fds, vhost)?;
        self.0.push(Netdev {
            id,
            kind,
            backend,
            card: None,
            built: false,
        });
        Ok(())
    }

    /// `netdev_del`.
    pub fn remove(&mut self, id: &str) -> Result<(), Failure> {
        let at = self.0.iter().position(|netdev| netdev.id == id);
        let at = at.ok_or_else(|| Failure::no_device(id))?;
        if let Some(card) = &self.0[at].card {
            return Err(Failure::generic(format!(
                "Device '{id}' is in use by '{card}'; unplug that first"
            )));
        }
        self.0.remove(at);
        Ok(())
    }

    /// Connects card `card` to the back end `id`.
    pub fn attach(&mut self, id: &str, card: &str) -> Result<Arc<dyn NetBackend>, Failure> {
        let found = self.0.iter_mut().find(|netdev| netdev.id == id);
        let unknown = || {
            Failure::generic(format!(
                "Property 'virtio-net-device.netdev' can't find value '{id}'"
            ))
        };
        let netdev = found.ok_or_else(unknown)?;
        if netdev.card.is_some() {
            return Err(Failure::generic(format!(
                "Property 'virtio-net-device.netdev' can't take value '{id}', it's in use"
            )));
        }
        netdev.card = Some(card.into());
        Ok(netdev.backend.clone())
    }

    /// The card is gone, and with it a back end that the guest was built with.
    pub fn detach(&mut self, card: &str) {
        self.0
            .retain(|netdev| netdev.id != card || netdev.card.as_deref() != Some(card) || !netdev.built);
        for netdev in &mut self.0 {
            if netdev.card.as_deref() == Some(card) {
                netdev.card = None;
            }
        }
    }
}

/// What `netdev_add` asks for; descriptors by their names.
enum Wish {
    Tap {
        queues: Vec<String>,
        vhost: Vec<String>,
    },
    Socket {
        name: String,
        /// Frames have their virtio-net headers on the wire.
        headers: bool,
    },
    /// The guest's end of a plug, see [`CardNet`].
    VhostUser {
        plug: String,
    },
    /// The guest's end of a plug, see [`SwitchNet`].
    Switch {
        plug: String,
    },
}

fn read_tap(arguments: &mut Arguments) -> Result<Wish, Failure> {
    let mut either = |one: &str, many: &str| -> Result<Vec<String>, Failure> {
        let (first, rest) = (arguments.string_if_given(one)?, arguments.string_if_given(many)?);
        match (first, rest) {
            (Some(_), Some(_)) => Err(Failure::generic(format!(
                "'{one}' and '{many}' cannot be given together"
            ))),
            (Some(name), None) => Ok(vec![name]),
            (None, Some(names)) => Ok(names.split(':').map(str::to_owned).collect()),
            (None, None) => Ok(Vec::new()),
        }
    };
    let queues = either("fd", "fds")?;
    let vhost = either("vhostfd", "vhostfds")?;
    let wanted = arguments.boolean_if_given("vhost")?.unwrap_or(false);
    if queues.is_empty() {
        return Err(Failure::generic(
            "a tap comes as a descriptor: give fd= or fds=, named by getfd",
        ));
    }
    if queues.len() > MAX_PAIRS {
        return Err(Failure::generic(format!("a tap has at most {MAX_PAIRS} queues")));
    }
    if wanted && vhost.len() != queues.len() {
        return Err(Failure::generic(
            "vhost takes one descriptor of /dev/vhost-net a queue: give vhostfd= or vhostfds=",
        ));
    }
    if !wanted && !vhost.is_empty() {
        return Err(Failure::generic("vhostfd(s)= is not valid without vhost"));
    }
    Ok(Wish::Tap { queues, vhost })
}

fn read_stream(arguments: &mut Arguments) -> Result<Wish, Failure> {
    if arguments.boolean_if_given("server")?.unwrap_or(false) {
        return Err(Failure::generic(
            "this process opens no sockets; give the connected one by addr.type=fd",
        ));
    }
    let address = arguments.object_if_given("addr")?;
    let mut address = arguments.need("addr", address)?;
    let kind = address.string("type")?;
    if kind != "fd" {
        return Err(Failure::not_accepted("addr.type", &kind));
    }
    let name = address.string("str")?;
    address.finish()?;
    Ok(Wish::Socket { name, headers: false })
}

impl Wish {
    fn realize(self, fds: &mut ClientFds, vhost_allowed: bool) -> Result<Arc<dyn NetBackend>, Failure> {
        let failed = |error: ostler_netio::Error| Failure::generic(error.to_string());
        match self {
            Wish::Socket { name, headers } => {
                let socket: OwnedFd = fds.take(&name)?;
                let net = match headers {
                    true => SocketNet::with_headers(socket),
                    false => SocketNet::new(socket),
                };
                Ok(Arc::new(net.map_err(failed)?))
            }
            Wish::VhostUser { plug } => {
                let plug: OwnedFd = fds.take(&plug)?;
                Ok(Arc::new(CardNet::new(plug).map_err(failed)?))
            }
            Wish::Switch { plug } => {
                let plug: OwnedFd = fds.take(&plug)?;
                Ok(Arc::new(SwitchNet::new(plug).map_err(failed)?))
            }
            Wish::Tap { queues, vhost } => {
                if !vhost.is_empty() && !vhost_allowed {
                    return Err(Failure::generic(
                        "vhost-net writes to guest memory behind the software CPU's back; leave vhost out",
                    ));
                }
                let mut take = |names: Vec<String>| -> Result<Vec<File>, Failure> {
                    names.iter().map(|name| Ok(File::from(fds.take(name)?))).collect()
                };
                let open = OpenTap {
                    queues: take(queues)?,
                    vhost: take(vhost)?,
                    mtu: None,
                    whole: false,
                };
                Ok(Arc::new(Tap::new(open).map_err(failed)?))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};
    use std::os::unix::net::UnixStream;

    fn add(netdevs: &mut Netdevs, fds: &mut ClientFds, value: Value) -> Result<(), String> {
        let Value::Object(map) = value else {
            panic!("{value}")
        };
        netdevs
            .add(Arguments::new(map), fds, false)
            .map_err(|failure| failure.text)
    }

    #[test]
    fn a_socket_is_taken_by_its_name_and_given_back() {
        let (mut netdevs, mut fds) = (Netdevs::default(), ClientFds::default());
        let (ours, mut peer) = UnixStream::pair().unwrap();
        fds.receive(ours.into());
        fds.name_next("cable".into()).unwrap();
        let wish = json!({ "type": "stream", "id": "n", "addr": { "type": "fd", "str": "cable" } });
        add(&mut netdevs, &mut fds, wish.clone()).unwrap();
        assert_eq!(
            add(&mut netdevs, &mut fds, wish).unwrap_err(),
            "Duplicate ID 'n' for netdev"
        );
        netdevs.attach("n", "card").unwrap();
        assert!(netdevs.attach("n", "other").is_err());
        assert!(netdevs.remove("n").unwrap_err().text.contains("in use by 'card'"));
        netdevs.detach("card");
        netdevs.remove("n").unwrap();
        assert_eq!(netdevs.remove("n").unwrap_err(), Failure::no_device("n"));
        let ended = std::io::Read::read(&mut peer, &mut [0]).unwrap();
        assert_eq!(ended, 0, "nothing holds the socket any more");
    }

    #[test]
    fn wrong_options_are_named() {
        let (mut netdevs, mut fds) = (Netdevs::default(), ClientFds::default());
        let (ours, _peer) = UnixStream::pair().unwrap();
        fds.receive(ours.into());
        fds.name_next("no-tap".into()).unwrap();
        let wrong = [
            (json!({ "type": "tap" }), "Parameter 'id' is missing"),
            (json!({ "id": "n" }), "Parameter 'type' is missing"),
            (
                json!({ "id": "n", "type": "user" }),
                "Parameter 'type' does not accept value 'user'",
            ),
            (
                json!({ "id": "1", "type": "socket", "fd": "f" }),
                "Parameter 'id' expects an identifier",
            ),
            (
                json!({ "id": "n", "type": "socket", "fd": "f" }),
                "File descriptor named 'f' has not been found",
            ),
            (
                json!({ "id": "n", "type": "tap", "fd": "f", "ifname": "tap0" }),
                "Parameter 'ifname' is unexpected",
            ),
            (
                json!({ "id": "n", "type": "tap", "fd": "f", "vhostfd": "v" }),
                "vhostfd(s)= is not valid without vhost",
            ),
            (
                json!({ "id": "n", "type": "stream", "addr": { "type": "unix", "path": "/x" } }),
                "Parameter 'addr.type' does not accept value 'unix'",
            ),
        ];
        for (value, text) in wrong {
            assert_eq!(
                add(&mut netdevs, &mut fds, value.clone()).unwrap_err(),
                text,
                "{value}"
            );
        }
        let no_tap = json!({ "id": "n", "type": "tap", "fd": "no-tap" });
        assert!(add(&mut netdevs, &mut fds, no_tap).is_err());
        assert_eq!(netdevs.iter().count(), 0);
    }
}
