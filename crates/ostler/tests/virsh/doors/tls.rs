//! `qemu+tls://`: certificates by OpenSSL, virsh and OpenSSL as clients, and a hundred of our own at once.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Barrier};

use ostler_libvirt::frame::{PROGRAM_VERSION, REMOTE_PROGRAM};
use ostler_libvirt::procedures::{ConnectGetHostname, Procedure};
use ostler_libvirt::{Header, Kind, Message, Status, xdr};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{Place, complaint, definition, printed, virsh};
use crate::setup::wait_until;

/// What `openssl ca` works by. It keeps the names that requests ask for.
const CA_CONFIG: &str = "
[req]
distinguished_name = empty
[empty]
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[revocations]
authorityKeyIdentifier = keyid:always
[ca]
default_ca = this
[this]
database = index
new_certs_dir = .
rand_serial = yes
certificate = ca.pem
private_key = ca.key
default_md = sha256
default_days = 30
default_crl_days = 30
crlnumber = crlnumber
crl_extensions = revocations
policy = any
email_in_dn = yes
unique_subject = no
copy_extensions = copy
[any]
organizationName = optional
commonName = supplied
";

/// An authority in a folder of its own.
struct Authority {
    folder: PathBuf,
}

impl Authority {
    fn new(folder: PathBuf, name: &str) -> Self {
        fs::create_dir(&folder).unwrap();
        fs::write(folder.join("config"), CA_CONFIG).unwrap();
        fs::write(folder.join("index"), "").unwrap();
        fs::write(folder.join("crlnumber"), "01\n").unwrap();
        let this = Self { folder };
        this.openssl(&format!(
            "req -x509 -config config -extensions authority -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 30 \
             -keyout ca.key -out ca.pem -subj /CN={name}",
        ));
        this
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(&self.folder)
            .output()
            .expect("openssl runs");
        assert!(
            output.status.success(),
            "openssl {arguments}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes `NAME.pem` and `NAME.key`. `more` are options of `openssl ca`.
    fn issue(&self, name: &str, subject: &str, extension: &str, more: &str) {
        self.openssl(&format!(
            "req -new -config config -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout {name}.key -out {name}.csr -subj {subject} \
             -addext {extension} -addext basicConstraints=critical,CA:FALSE"
        ));
        self.openssl(&format!(
            "ca -batch -notext -preserveDN -config config -in {name}.csr -out {name}.pem {more}"
        ));
    }

    fn server(&self, names: &str) {
        self.issue("server", "/CN=server", &format!("subjectAltName={names}"), "");
    }

    fn client(&self, name: &str, subject: &str, more: &str) {
        self.issue(name, subject, "extendedKeyUsage=clientAuth", more);
    }

    /// A folder as libvirt's clients want it (`pkipath`): the authority that they trust, and this authority's certificate of `name`.
    fn pkipath(&self, trusted: &Authority, name: &str) -> PathBuf {
        let folder = self.path(&format!("pki-{name}"));
        fs::create_dir_all(&folder).unwrap();
        fs::copy(trusted.path("ca.pem"), folder.join("cacert.pem")).unwrap();
        fs::copy(self.path(&format!("{name}.pem")), folder.join("clientcert.pem")).unwrap();
        fs::copy(self.path(&format!("{name}.key")), folder.join("clientkey.pem")).unwrap();
        folder
    }
}

/// A daemon with TLS on a port of the loopback interface.
struct TlsHost {
    place: Place,
    authority: Authority,
    port: u16,
}

impl TlsHost {
    fn start(server_names: &str, more: &str) -> Self {
        let mut place = Place::new("");
        let authority = Authority::new(place.path("authority"), "Authority");
        authority.server(server_names);
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let at = |name: &str| authority.path(name).display().to_string();
        let mut text = fs::read_to_string(place.path("daemon.toml")).unwrap();
        text += &format!(
            "[tls]\nlisten = [\"127.0.0.1:{port}\"]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n{}\n",
            at("ca.pem"),
            at("server.pem"),
            at("server.key"),
            more.replace("@", &at(""))
        );
        fs::write(place.path("daemon.toml"), text).unwrap();
        if more.contains("crl") {
            authority.client("revoked", "/CN=revoked", "");
            authority.openssl("ca -config config -revoke revoked.pem");
            authority.openssl("ca -config config -gencrl -out crl.pem");
        }
        place.run(place.daemon());
        Self {
            place,
            authority,
            port,
        }
    }

    fn uri(&self, pkipath: &Path) -> String {
        format!(
            "qemu+tls://127.0.0.1:{}/system?pkipath={}",
            self.port,
            pkipath.display()
        )
    }

    /// Has the daemon read its certificates again, and waits until it has said what came of it.
    fn reload(&self, says: &str) {
        let before = self.place.log().matches(says).count();
        self.place.signal(rustix::process::Signal::HUP);
        wait_until(&format!("the daemon says once more: {says}"), || {
            self.place.log().matches(says).count() > before
        });
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(("127.0.0.1", self.port)).unwrap()
    }

    /// Waits for a line of the audit log about somebody who was not let in.
    fn expect_refused(&self, why: &str) {
        wait_until(&format!("the log has a refusal with {why}"), || {
            let log = self.place.log();
            log.lines()
                .any(|line| line.contains(" connect refused=") && line.contains(why))
        });
    }
}

#[test]
fn a_right_certificate_manages_guests() {
    let host = TlsHost::start("IP:127.0.0.1", "");
    host.authority.client("client", "/O=Inn/CN=client", "");
    let uri = host.uri(&host.authority.pkipath(&host.authority, "client"));
    let file = definition(&host.place.path(""), "alpha");
    printed(virsh(&uri, &format!("define {file}")));
    assert!(host.place.path("definitions/alpha.xml").exists());
    printed(virsh(&uri, "start alpha"));
    assert_eq!(printed(virsh(&uri, "domstate alpha")).trim(), "running");
    // By the other door it is the same guest.
    assert_eq!(printed(virsh(&host.place.uri(), "list --name")).trim(), "alpha");
    printed(virsh(&uri, "destroy alpha"));
    printed(virsh(&uri, "autostart alpha"));
    let said = complaint(virsh(&uri, "-r undefine alpha"));
    assert!(said.contains("read only access prevents"), "{said}");
    printed(virsh(&uri, "undefine alpha"));
    assert!(!host.place.path("definitions/alpha.xml").exists());
    // Pings, and a wait.
    let said = printed_or_timed_out(virsh(&uri, "-k 1 -K 2 event --event lifecycle --timeout 3"));
    assert!(said.contains("event loop timed out"), "{said}");
    host.place
        .expect_in_log("dn=\"O=Inn,CN=client\" call=DOMAIN_CREATE object=\"alpha\" done");
}

fn printed_or_timed_out(mut command: Command) -> String {
    String::from_utf8(command.output().unwrap().stdout).unwrap()
}

#[test]
fn certificates_are_read_again_by_sighup() {
    let host = TlsHost::start("IP:127.0.0.1", "crl = \"@/crl.pem\"");
    host.authority.client("one", "/CN=one", "");
    host.authority.client("two", "/CN=two", "");
    let [one, two] = ["one", "two"].map(|name| {
        let pkipath = host.authority.pkipath(&host.authority, name);
        host.uri(&pkipath)
    });
    printed(virsh(&one, "hostname"));
    // Who is connected stays so.
    let mut connected = welcomed(&host, "two");

    // One is revoked.
    host.authority.openssl("ca -config config -revoke one.pem");
    host.authority.openssl("ca -config config -gencrl -out crl.pem");
    printed(virsh(&one, "hostname"));
    host.reload("the certificates of TLS were read again");
    complaint(virsh(&one, "hostname"));
    host.expect_refused("Revoked");
    printed(virsh(&two, "hostname"));

    // Half a file changes nothing.
    let good = fs::read(host.authority.path("server.pem")).unwrap();
    fs::write(host.authority.path("server.pem"), &good[..good.len() / 2]).unwrap();
    host.reload("nothing is read again");
    printed(virsh(&two, "hostname"));
    let config = fs::read_to_string(host.place.path("daemon.toml")).unwrap();
    fs::write(host.place.path("daemon.toml"), "[tls]\nfoo = 1\n").unwrap();
    host.reload("unknown field `foo`");

    // Another name of the host, another authority, and who is let in.
    let foreign = Authority::new(host.place.path("foreign"), "Stranger");
    foreign.server("IP:127.0.0.1");
    foreign.client("three", "/CN=three", "");
    foreign.client("four", "/CN=four", "");
    for name in ["ca.pem", "server.pem", "server.key"] {
        fs::copy(foreign.path(name), host.authority.path(name)).unwrap();
    }
    let config = config
        .lines()
        .filter(|line| !line.starts_with("crl ="))
        .chain(["allowed-names = [\"CN=three\"]"])
        .collect::<Vec<_>>()
        .join("\n");
    fs::write(host.place.path("daemon.toml"), config).unwrap();
    host.reload("the certificates of TLS were read again");
    printed(virsh(&host.uri(&foreign.pkipath(&foreign, "three")), "hostname"));
    complaint(virsh(&host.uri(&foreign.pkipath(&foreign, "four")), "hostname"));
    host.expect_refused("CN=four is not among the allowed names");
    complaint(virsh(&two, "hostname"));
    assert_eq!(hostname(&mut connected), this_host());
}

#[test]
fn a_certificate_that_is_missing_expired_foreign_or_revoked_is_refused() {
    let host = TlsHost::start("IP:127.0.0.1", "crl = \"@/crl.pem\"");
    let ours = &host.authority;
    let foreign = Authority::new(host.place.path("foreign"), "Stranger");
    // One that calls itself as ours does.
    let impostor = Authority::new(host.place.path("impostor"), "Authority");
    ours.client("client", "/CN=client", "");
    ours.client(
        "expired",
        "/CN=expired",
        "-startdate 20200101000000Z -enddate 20200201000000Z",
    );
    ours.client(
        "future",
        "/CN=future",
        "-startdate 20490101000000Z -enddate 20490201000000Z",
    );
    ours.issue("wrong-use", "/CN=wrong-use", "extendedKeyUsage=serverAuth", "");
    foreign.client("stranger", "/CN=client", "");
    impostor.client("double", "/CN=client", "");
    printed(virsh(&host.uri(&ours.pkipath(ours, "client")), "hostname"));
    for (authority, name, why) in [
        (ours, "expired", "xpired"),
        (ours, "future", "not valid yet"),
        (ours, "wrong-use", "extended key usage"),
        (ours, "revoked", "Revoked"),
        (&foreign, "stranger", "UnknownIssuer"),
        (&impostor, "double", "BadSignature"),
    ] {
        // virsh looks at dates of its own certificate by itself; OpenSSL sends whatever it is given.
        let (certificate, key) = (
            authority.path(&format!("{name}.pem")),
            authority.path(&format!("{name}.key")),
        );
        let said = s_client(
            &host,
            &[
                "-cert",
                certificate.to_str().unwrap(),
                "-key",
                key.to_str().unwrap(),
            ],
        );
        assert!(!said.stdout.contains(&1), "{name} was welcomed: {said:?}");
        host.expect_refused(why);
        complaint(virsh(&host.uri(&authority.pkipath(ours, name)), "hostname"));
    }
    let said = s_client(&host, &[]);
    assert!(!said.stdout.contains(&1), "{said:?}");
    host.expect_refused("peer sent no certificates");
    // Whoever is taken is told so by one byte.
    let (certificate, key) = (ours.path("client.pem"), ours.path("client.key"));
    let said = s_client(
        &host,
        &[
            "-cert",
            certificate.to_str().unwrap(),
            "-key",
            key.to_str().unwrap(),
        ],
    );
    assert_eq!(said.stdout, [1], "{said:?}");
    printed(virsh(&host.uri(&ours.pkipath(ours, "client")), "hostname"));
}

/// `openssl s_client`, which says nothing, and gives what it is told.
fn s_client(host: &TlsHost, arguments: &[&str]) -> Output {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_return_error", "-CAfile"])
        .arg(host.authority.path("ca.pem"))
        .args(["-connect", &format!("127.0.0.1:{}", host.port)])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Either the byte comes, or the end.
    let mut first = vec![0; 1];
    let count = client.stdout.as_mut().unwrap().read(&mut first).unwrap();
    first.truncate(count);
    let _ = client.kill();
    Output {
        stdout: first,
        ..client.wait_with_output().unwrap()
    }
}

#[test]
fn only_the_names_that_are_listed_come_in() {
    let host = TlsHost::start(
        "IP:127.0.0.1",
        "allowed-names = [\"O=Inn,CN=groom*\", \"CN=lone\"]",
    );
    let ours = &host.authority;
    for (name, subject, comes_in) in [
        ("groom7", "/O=Inn/CN=groom7", true),
        ("lone", "/CN=lone", true),
        ("other", "/O=Inn/CN=other", false),
        ("lonely", "/CN=lonely", false),
        // A value that looks like two.
        ("sly", "/CN=x,O=Inn,CN=groom", false),
    ] {
        ours.client(name, subject, "");
        let hostname = virsh(&host.uri(&ours.pkipath(ours, name)), "hostname");
        if comes_in {
            printed(hostname);
        } else {
            complaint(hostname);
            host.expect_refused("is not among the allowed names");
        }
    }
    // libvirt's own tool spells names as we do.
    for (name, dn) in [
        ("groom7", "O=Inn,CN=groom7"),
        ("other", "O=Inn,CN=other"),
        ("sly", "CN=x\\\\,O=Inn\\\\,CN=groom"),
    ] {
        let mut query = Command::new("virt-pki-query-dn");
        query.arg(ours.path(&format!("{name}.pem")));
        let theirs = printed(query);
        assert!(theirs.contains(&dn.replace("\\\\", "\\")), "{theirs}");
        let log = host.place.log();
        assert!(log.contains(dn), "{dn}: {log}");
    }
}

#[test]
fn a_server_with_a_wrong_name_is_refused_by_virsh() {
    let host = TlsHost::start("DNS:elsewhere.example", "");
    host.authority.client("client", "/CN=client", "");
    let pkipath = host.authority.pkipath(&host.authority, "client");
    let said = complaint(virsh(&host.uri(&pkipath), "hostname"));
    assert!(said.contains("does not match the hostname"), "{said}");
    printed(virsh(&(host.uri(&pkipath) + "&no_verify=1"), "hostname"));
}

/// A client of our own that has shaken hands and was welcomed.
fn welcomed(host: &TlsHost, name: &str) -> rustls::StreamOwned<rustls::ClientConnection, TcpStream> {
    let authority = &host.authority;
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_file(authority.path("ca.pem")).unwrap())
        .unwrap();
    let chain = vec![CertificateDer::from_pem_file(authority.path(&format!("{name}.pem"))).unwrap()];
    let key = PrivateKeyDer::from_pem_file(authority.path(&format!("{name}.key"))).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .unwrap();
    let session = rustls::ClientConnection::new(config.into(), "127.0.0.1".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(session, host.connect());
    let mut byte = [0];
    stream.read_exact(&mut byte).unwrap();
    assert_eq!(byte, [1]);
    stream
}

/// What the daemon answers when it is asked for the host's name.
fn hostname(stream: &mut (impl Read + Write)) -> String {
    let call = Message {
        header: Header {
            program: REMOTE_PROGRAM,
            version: PROGRAM_VERSION,
            procedure: ConnectGetHostname::NUMBER,
            kind: Kind::Call,
            serial: 1,
            status: Status::Ok,
        },
        payload: Vec::new(),
    };
    stream.write_all(&call.to_bytes()).unwrap();
    let answer = Message::read(stream).unwrap().unwrap();
    xdr::from_bytes(&answer.payload).unwrap()
}

fn this_host() -> String {
    let name = rustix::system::uname();
    name.nodename().to_str().unwrap().to_owned()
}

#[test]
fn a_hundred_at_once_and_stalled_handshakes_hold_up_no_one() {
    let host = TlsHost::start("IP:127.0.0.1", "");
    host.authority.client("client", "/CN=client", "");
    // More than may shake hands at a time, of which half begin and none goes on.
    let mut stalled: Vec<_> = (0..200).map(|_| host.connect()).collect();
    for stream in stalled.iter_mut().step_by(2) {
        // The head of a record of which nothing comes.
        let _ = stream.write_all(&[22, 3, 1, 2, 0]);
    }
    let mut plain = host.connect();
    plain.write_all(&Message::keepalive(1).to_bytes()).unwrap();
    assert!(
        !matches!(plain.read(&mut [0; 28]), Ok(28)),
        "nothing is answered in plain text"
    );
    host.expect_refused("corrupt message");

    let all_are_in = Barrier::new(100);
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let mut stream = welcomed(&host, "client");
                all_are_in.wait();
                assert_eq!(hostname(&mut stream), this_host());
            });
        }
    });
    // Those who stalled are hung up on, every one.
    for stream in &mut stalled {
        assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0);
    }
    host.expect_refused("the handshake took too long");
}

#[test]
fn large_packets_and_nonsense_after_the_handshake() {
    let host = TlsHost::start("IP:127.0.0.1", "");
    host.authority.client("client", "/CN=client", "");
    let mut stream = welcomed(&host, "client");
    // A definition of 3 MiB, which is refused, over many records.
    let text = format!("<domain type='qemu'><name>{}</name>", "x".repeat(3 << 20));
    let header = Header {
        program: REMOTE_PROGRAM,
        version: PROGRAM_VERSION,
        procedure: 11,
        kind: Kind::Call,
        serial: 2,
        status: Status::Ok,
    };
    let message = Message::new(header, &text).unwrap();
    stream.write_all(&message.to_bytes()).unwrap();
    let answer = Message::read(&mut stream).unwrap().unwrap();
    assert_eq!((answer.header.serial, answer.header.status), (2, Status::Error));
    stream.write_all(&[0xff; 64]).unwrap();
    assert_eq!(stream.read(&mut [0; 64]).unwrap_or(0), 0, "hung up on");
    printed(virsh(&host.place.uri(), "hostname"));
}
