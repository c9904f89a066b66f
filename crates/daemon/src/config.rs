//! How a daemon is set up: what is usual for a host or for a user, and a file (TOML) that says otherwise.

use std::fmt::Display;
use std::io::Read;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use ostler_libvirt::types::Uuid;
use serde::Deserialize;
use toml::Spanned;

use crate::{Error, uuid};

/// Longest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The group that may manage guests where nothing else is said, if the host has it.
const USUAL_GROUP: &str = "libvirt";
/// Where TLS is served: libvirt's port, by both versions of IP.
const TLS_PORT: u16 = 16514;
/// The parent of guests' control groups where nothing else is said.
const USUAL_GROUPS: &str = "ostler";

/// Whose guests a daemon looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The host's: `qemu:///system`.
    System,
    /// A user's own: `qemu:///session`.
    Session,
}

impl Scope {
    /// The URI by which clients mean it.
    pub fn uri(self) -> &'static str {
        match self {
            Self::System => "qemu:///system",
            Self::Session => "qemu:///session",
        }
    }
}

/// A group of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Group {
    /// The one that is usual; without it only the daemon's own user gets in.
    Usual(String),
    /// One that has to be there: a name, or a number.
    Named(String),
}

/// How a daemon is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Whose guests it looks after.
    pub scope: Scope,
    /// The folder of guests' definitions, which last; those of networks, pools and secrets are in folders beside it.
    pub definitions: PathBuf,
    /// The folder of the storage pool `default`, which is made at the first start.
    pub images: PathBuf,
    /// The folder of guests that run, which may go with a reboot of the host.
    pub runtime: PathBuf,
    /// What tells this host from others; its own if nothing is said.
    pub host_uuid: Option<Uuid>,
    /// The parent of guests' control groups, as a path in each of the host's trees; none if there are to be no groups.
    pub groups: Option<PathBuf>,
    /// Unix sockets.
    pub unix: UnixConfig,
    /// TLS, if it is wanted.
    pub tls: Option<TlsConfig>,
    /// The file of the audit log; standard error if there is none.
    pub audit: Option<PathBuf>,
}

/// Unix sockets, and who may connect to them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnixConfig {
    /// Sockets of clients that may change things.
    pub sockets: Vec<PathBuf>,
    /// Sockets of clients that may only look.
    pub readonly_sockets: Vec<PathBuf>,
    /// Who may connect beside the daemon's own user.
    pub group: Option<Group>,
    /// The mode of the sockets where there is a group.
    pub mode: u32,
    /// The mode of those of clients that may only look.
    pub readonly_mode: u32,
}

/// Clients from elsewhere, by TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsConfig {
    /// Where to listen.
    pub listen: Vec<SocketAddr>,
    /// The certificates that clients' certificates have to come from (PEM).
    pub ca: PathBuf,
    /// Certificates that were revoked (PEM).
    pub crl: Option<PathBuf>,
    /// Our certificate, and those between it and the client's authority (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// Whom to let in: distinguished names, with `*` for any text; everyone with a certificate if it is missing.
    pub allowed_names: Option<Vec<String>>,
}

/// The file.
#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    definitions: Option<Spanned<PathBuf>>,
    images: Option<Spanned<PathBuf>>,
    runtime: Option<Spanned<PathBuf>>,
    host_uuid: Option<Spanned<String>>,
    groups: Option<Spanned<String>>,
    unix: Option<UnixFile>,
    tls: Option<TlsFile>,
    audit: Option<AuditFile>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct UnixFile {
    sockets: Option<Vec<Spanned<PathBuf>>>,
    readonly_sockets: Option<Vec<Spanned<PathBuf>>>,
    group: Option<Spanned<String>>,
    mode: Option<Spanned<String>>,
    readonly_mode: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct TlsFile {
    listen: Option<Vec<Spanned<String>>>,
    ca: Option<Spanned<PathBuf>>,
    crl: Option<Spanned<PathBuf>>,
    certificate: Option<Spanned<PathBuf>>,
    key: Option<Spanned<PathBuf>>,
    allowed_names: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct AuditFile {
    file: Spanned<PathBuf>,
}

/// At which byte of a file something is wrong, and what.
type Wrong = (usize, String);

fn wrong(span: Range<usize>, why: impl Display) -> Wrong {
    (span.start, why.to_string())
}

impl Config {
    /// What is usual: the places where libvirt's clients look, for the host or for this user.
    pub fn usual(scope: Scope) -> Self {
        match scope {
            Scope::System => Self::in_folders(
                scope,
                Path::new("/var/lib/ostler"),
                Path::new("/var/lib/libvirt/images"),
                Path::new("/run/ostler"),
                Path::new("/run/libvirt"),
            ),
            Scope::Session => {
                let runtime = user_runtime();
                Self::in_folders(
                    scope,
                    &user_folder("XDG_CONFIG_HOME", ".config").join("ostler"),
                    &user_folder("XDG_DATA_HOME", ".local/share").join("libvirt/images"),
                    &runtime.join("ostler"),
                    &runtime.join("libvirt"),
                )
            }
        }
    }

    fn in_folders(scope: Scope, lasting: &Path, images: &Path, runtime: &Path, sockets: &Path) -> Self {
        // Clients take the second if it is there, and else the first.
        let sockets = ["libvirt-sock", "virtqemud-sock"]
            .map(|name| sockets.join(name))
            .to_vec();
        let system = scope == Scope::System;
        let readonly_sockets = sockets
            .iter()
            .filter(|_| system)
            .map(|path| readonly(path))
            .collect();
        Self {
            scope,
            definitions: lasting.join("guests"),
            images: images.into(),
            runtime: runtime.into(),
            host_uuid: None,
            // An ordinary user may make no groups where root may.
            groups: system.then(|| USUAL_GROUPS.into()),
            unix: UnixConfig {
                sockets,
                readonly_sockets,
                group: system.then(|| Group::Usual(USUAL_GROUP.into())),
                mode: 0o660,
                readonly_mode: 0o666,
            },
            tls: None,
            audit: None,
        }
    }

    /// The folder of other definitions, beside that of guests'.
    pub(crate) fn beside(&self, name: &str) -> PathBuf {
        self.definitions.with_file_name(name)
    }

    /// Where the file is if nobody says.
    pub fn usual_file(scope: Scope) -> PathBuf {
        match scope {
            Scope::System => "/etc/ostler/daemon.toml".into(),
            Scope::Session => user_folder("XDG_CONFIG_HOME", ".config").join("ostler/daemon.toml"),
        }
    }

    /// Reads the file at `path`. An error refuses it whole, and says in which line it is.
    pub fn read(path: &Path, scope: Scope) -> Result<Self, Error> {
        let file = std::fs::File::open(path).map_err(Error::file("read", path))?;
        let mut text = String::new();
        file.take(MAX_FILE + 1)
            .read_to_string(&mut text)
            .map_err(Error::file("read", path))?;
        if text.len() as u64 > MAX_FILE {
            return Err(Error::file("read", path)(std::io::Error::other(
                "it is longer than 1 MiB",
            )));
        }
        Self::parse(&text, scope).map_err(|(at, reason)| Error::Config {
            path: path.into(),
            line: 1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count(),
            reason,
        })
    }

    /// Understands the text of a file, or says at which byte it is wrong, and why.
    fn parse(text: &str, scope: Scope) -> Result<Self, Wrong> {
        let file: File = toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            (at, error.message().trim().replace('\n', " "))
        })?;
        let mut config = Self::usual(scope);
        set(&mut config.definitions, file.definitions.map(path).transpose()?);
        set(&mut config.images, file.images.map(path).transpose()?);
        set(&mut config.runtime, file.runtime.map(path).transpose()?);
        config.host_uuid = file.host_uuid.map(host_uuid).transpose()?;
        if let Some(given) = file.groups {
            config.groups = groups(&given)?;
        }
        if let Some(unix) = file.unix {
            config.unix.take(unix)?;
        }
        config.tls = file.tls.map(TlsConfig::from_file).transpose()?;
        config.audit = file.audit.map(|audit| path(audit.file)).transpose()?;
        Ok(config)
    }
}

impl UnixConfig {
    fn take(&mut self, file: UnixFile) -> Result<(), Wrong> {
        let had_readonly = !self.readonly_sockets.is_empty();
        if let Some(sockets) = file.sockets {
            self.sockets = sockets.into_iter().map(path).collect::<Result<_, _>>()?;
            if had_readonly {
                self.readonly_sockets = self.sockets.iter().map(|path| readonly(path)).collect();
            }
        }
        if let Some(sockets) = file.readonly_sockets {
            self.readonly_sockets = sockets.into_iter().map(path).collect::<Result<_, _>>()?;
        }
        if let Some(group) = file.group {
            self.group = match group.get_ref().as_str() {
                "" => None,
                name => Some(Group::Named(name.into())),
            };
        }
        set(&mut self.mode, file.mode.map(mode).transpose()?);
        set(&mut self.readonly_mode, file.readonly_mode.map(mode).transpose()?);
        Ok(())
    }
}

impl TlsConfig {
    fn from_file(file: TlsFile) -> Result<Self, Wrong> {
        let address = |text: Spanned<String>| {
            let why = |_| {
                wrong(
                    text.span(),
                    format!(
                        "\"{}\" is no address and port, such as [::]:{TLS_PORT}",
                        text.get_ref()
                    ),
                )
            };
            text.get_ref().parse::<SocketAddr>().map_err(why)
        };
        let listen = match file.listen {
            Some(list) => list.into_iter().map(address).collect::<Result<_, _>>()?,
            None => vec![SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, TLS_PORT))],
        };
        let or = |given: Option<Spanned<PathBuf>>, usual: &str| given.map_or(Ok(usual.into()), path);
        let usual_crl = Path::new("/etc/pki/CA/cacrl.pem");
        Ok(Self {
            listen,
            ca: or(file.ca, "/etc/pki/CA/cacert.pem")?,
            crl: match file.crl {
                Some(crl) => Some(path(crl)?),
                None => usual_crl.exists().then(|| usual_crl.into()),
            },
            certificate: or(file.certificate, "/etc/pki/libvirt/servercert.pem")?,
            key: or(file.key, "/etc/pki/libvirt/private/serverkey.pem")?,
            allowed_names: file.allowed_names,
        })
    }
}

fn set<T>(to: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *to = value;
    }
}

/// The socket of clients that may only look, beside `path`.
pub fn readonly(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push("-ro");
    path.into()
}

fn path(given: Spanned<PathBuf>) -> Result<PathBuf, Wrong> {
    if !given.get_ref().is_absolute() {
        let why = format!("\"{}\" has to begin with /", given.get_ref().display());
        return Err(wrong(given.span(), why));
    }
    Ok(given.into_inner())
}

fn host_uuid(given: Spanned<String>) -> Result<Uuid, Wrong> {
    let why = || wrong(given.span(), format!("\"{}\" is no UUID", given.get_ref()));
    uuid::parse(given.get_ref()).ok_or_else(why)
}

/// A path in the trees of control groups; nothing stands for no groups.
fn groups(given: &Spanned<String>) -> Result<Option<PathBuf>, Wrong> {
    let text = given.get_ref().as_str();
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
    match text {
        "" => Ok(None),
        _ if text.split('/').all(is_name) => Ok(Some(text.into())),
        _ => Err(wrong(
            given.span(),
            format!("\"{text}\" is no path of control groups, such as machine/guests"),
        )),
    }
}

fn mode(given: Spanned<String>) -> Result<u32, Wrong> {
    let mode = u32::from_str_radix(given.get_ref(), 8)
        .ok()
        .filter(|mode| mode & !0o777 == 0);
    let why = || {
        wrong(
            given.span(),
            format!("\"{}\" is no mode, such as 0660", given.get_ref()),
        )
    };
    mode.ok_or_else(why)
}

/// A folder of this user by the XDG base directory specification.
fn user_folder(variable: &str, below_home: &str) -> PathBuf {
    let absolute = |path: &PathBuf| path.is_absolute();
    let given = std::env::var_os(variable).map(PathBuf::from).filter(absolute);
    given.unwrap_or_else(|| {
        std::env::home_dir()
            .unwrap_or_else(|| "/".into())
            .join(below_home)
    })
}

/// Where this user's sockets are; the folder of caches where the host makes none for them, as libvirt has it.
fn user_runtime() -> PathBuf {
    let absolute = |path: &PathBuf| path.is_absolute();
    let given = std::env::var_os("XDG_RUNTIME_DIR")
        .map(PathBuf::from)
        .filter(absolute);
    given.unwrap_or_else(|| user_folder("XDG_CACHE_HOME", ".cache"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHOLE: &str = r#"
definitions = "/d"
groups = "a/b"
runtime = "/r"
host-uuid = "0a1b2c3d-4e5f-6071-8293-a4b5c6d7e8f9"
[unix]
sockets = ["/s"]
group = "wheel"
mode = "0600"
readonly-mode = "660"
[tls]
listen = ["127.0.0.1:1"]
ca = "/ca"
crl = "/crl"
certificate = "/c"
key = "/k"
allowed-names = ["CN=a*"]
[audit]
file = "/log"
"#;

    #[test]
    fn everything_can_be_said() {
        let config = Config::parse(WHOLE, Scope::System).unwrap();
        assert_eq!(config.unix.readonly_sockets, [PathBuf::from("/s-ro")]);
        assert_eq!(config.unix.group, Some(Group::Named("wheel".into())));
        assert_eq!((config.unix.mode, config.unix.readonly_mode), (0o600, 0o660));
        assert_eq!((config.definitions, config.runtime), ("/d".into(), "/r".into()));
        assert_eq!(
            (config.audit, config.groups),
            (Some("/log".into()), Some("a/b".into()))
        );
        let groups = |text: &str, scope| Config::parse(text, scope).unwrap().groups;
        assert_eq!(groups("groups = \"\"", Scope::System), None);
        assert_eq!(groups("", Scope::System), Some(USUAL_GROUPS.into()));
        assert_eq!(groups("", Scope::Session), None);
        let tls = config.tls.unwrap();
        assert_eq!(
            (tls.listen, tls.crl),
            (vec!["127.0.0.1:1".parse().unwrap()], Some("/crl".into()))
        );
        assert_eq!(
            Config::parse("", Scope::System).unwrap(),
            Config::usual(Scope::System)
        );
        let tls = Config::parse("[tls]", Scope::System).unwrap().tls.unwrap();
        assert_eq!(tls.listen, ["[::]:16514".parse().unwrap()]);
        assert_eq!(tls.key, Path::new("/etc/pki/libvirt/private/serverkey.pem"));
    }

    /// Each wrong line is named, with the reason.
    #[test]
    fn errors_say_where_they_are() {
        for (text, line, reason) in [
            ("x\n", 1, "key with no value"),
            ("\nfolder = 1\n", 2, "unknown field `folder`"),
            ("runtime = \"r\"\n", 1, "has to begin with /"),
            ("host-uuid = \"1\"\n", 1, "no UUID"),
            ("groups = \"/a\"\n", 1, "no path of control groups"),
            ("groups = \"a/..\"\n", 1, "no path of control groups"),
            ("[unix]\nmode = \"660x\"\n", 2, "no mode"),
            ("[unix]\nmode = \"7660\"\n", 2, "no mode"),
            ("[unix]\nsockets = [\"/a\",\n\"b\"]\n", 3, "has to begin with /"),
            ("[tls]\nlisten = [\"16514\"]\n", 2, "no address and port"),
            ("[tls]\nca = 1\n", 2, "invalid type"),
            ("[audit]\n", 1, "missing field `file`"),
        ] {
            let (at, said) = Config::parse(text, Scope::System).unwrap_err();
            let found = 1 + text.bytes().take(at).filter(|&byte| byte == b'\n').count();
            assert!(said.contains(reason), "{text:?}: {said}");
            assert_eq!(found, line, "{text:?}: {said}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_understood_or_refused(text in "[a-z\\[\\]=\"0-9\n,. {}#/-]{0,200}", keep in 0usize..400) {
            let _ = Config::parse(&text, Scope::Session);
            let _ = Config::parse(&format!("{}{text}", &WHOLE[..keep.min(WHOLE.len())]), Scope::System);
        }
    }
}
