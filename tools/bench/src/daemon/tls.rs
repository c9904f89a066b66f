//! Clients that come by TLS, with certificates that OpenSSL makes.

use std::fs;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};

use super::client::Client;
use crate::error::Error;
use crate::net::space::run_command;

const MAKE: &str = r#"
set -e
key="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
openssl req -x509 $key -keyout ca.key -out ca.pem -subj /CN=bench
for who in server client; do
	openssl req $key -keyout $who.key -out $who.csr -subj /CN=$who
	printf 'subjectAltName=IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n' >$who.ext
	openssl x509 -req -in $who.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile $who.ext -out $who.pem
done
"#;

fn failed(error: impl ToString) -> Error {
    Error::Host("a connection by TLS", io::Error::other(error.to_string()))
}

/// Keys and certificates of an authority, a server and a client.
pub(super) struct Keys {
    folder: PathBuf,
    port: u16,
}

impl Keys {
    /// Makes them, and finds a port.
    pub(super) fn make(folder: &Path) -> Result<Self, Error> {
        run_command(Command::new("ip").args(["link", "set", "lo", "up"]))?;
        let folder = std::path::absolute(folder.join("keys")).map_err(failed)?;
        fs::create_dir_all(&folder).map_err(failed)?;
        run_command(Command::new("sh").args(["-c", MAKE]).current_dir(&folder))?;
        let listener = TcpListener::bind("127.0.0.1:0").map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        Ok(Self { folder, port })
    }

    /// What the daemon has to know.
    pub(super) fn configuration(&self) -> String {
        let at = |name: &str| self.folder.join(name).display().to_string();
        format!(
            "[tls]\nlisten = [\"127.0.0.1:{}\"]\nca = \"{}\"\ncertificate = \"{}\"\nkey = \"{}\"\n",
            self.port,
            at("ca.pem"),
            at("server.pem"),
            at("server.key")
        )
    }

    /// Connections a second, one after the other, each with a whole handshake and an opened driver.
    pub(super) fn connections(&self, span: Duration) -> Result<f64, Error> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.certificate("ca.pem")?).map_err(failed)?;
        let key = PrivateKeyDer::from_pem_file(self.folder.join("client.key")).map_err(failed)?;
        let mut config = rustls::ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![self.certificate("client.pem")?], key)
            .map_err(failed)?;
        config.resumption = rustls::client::Resumption::disabled();
        let config = Arc::new(config);
        let (start, mut count) = (Instant::now(), 0u32);
        while start.elapsed() < span {
            self.connect(&config)?;
            count += 1;
        }
        Ok(f64::from(count) / start.elapsed().as_secs_f64())
    }

    fn certificate(&self, name: &str) -> Result<CertificateDer<'static>, Error> {
        CertificateDer::from_pem_file(self.folder.join(name)).map_err(failed)
    }

    fn connect(&self, config: &Arc<rustls::ClientConfig>) -> Result<(), Error> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let name = ServerName::from(address.ip());
        let connection = rustls::ClientConnection::new(config.clone(), name).map_err(failed)?;
        let socket = TcpStream::connect(address).map_err(failed)?;
        // As libvirt's clients do.
        socket.set_nodelay(true).map_err(failed)?;
        let mut stream = rustls::StreamOwned::new(connection, socket);
        // libvirt: the server says with one byte that the certificate is good enough.
        let mut verdict = [0];
        io::Read::read_exact(&mut stream, &mut verdict).map_err(failed)?;
        if verdict != [1] {
            return Err(failed("the daemon refuses the certificate"));
        }
        Client::open(stream).map(drop)
    }
}
