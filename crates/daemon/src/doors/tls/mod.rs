//! TLS (`qemu+tls://`): both sides show a certificate. What is wanted of a client is in [`TlsConfig`].
//!
//! After the handshake libvirt's server says by one byte of 1 that it takes the client; one that it does not take it hangs up on.

mod handshake;
mod name;
mod stream;

pub use handshake::Handshakes;

use std::fs;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use crate::Error;
use crate::config::TlsConfig;

/// Most certificates or revocation lists of a file, and its bytes.
const MAX_FILE: u64 = 4 << 20;

/// Who we are and whom we let in.
#[derive(Debug)]
pub struct Tls {
    config: Arc<ServerConfig>,
    allowed_names: Option<Vec<String>>,
}

impl Tls {
    /// Reads certificates and key, all of them or none.
    pub fn load(config: &TlsConfig) -> Result<Self, Error> {
        let unfit = |path: &Path, why: String| Error::Certificate {
            path: path.into(),
            why,
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&config.ca)? {
            roots
                .add(certificate)
                .map_err(|e| unfit(&config.ca, e.to_string()))?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
        if let Some(path) = &config.crl {
            let lists: Result<Vec<CertificateRevocationListDer<'_>>, _> =
                CertificateRevocationListDer::pem_slice_iter(&read(path)?).collect();
            let lists = lists.map_err(|e| unfit(path, e.to_string()))?;
            if lists.is_empty() {
                return Err(unfit(path, "there is no revocation list in it".into()));
            }
            verifier = verifier.with_crls(lists).only_check_end_entity_revocation();
        }
        let verifier = verifier.build().map_err(|e| unfit(&config.ca, e.to_string()))?;
        let chain = certificates(&config.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(&read(&config.key)?)
            .map_err(|e| unfit(&config.key, e.to_string()))?;
        let mut server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| unfit(&config.certificate, e.to_string()))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(|e| unfit(&config.certificate, e.to_string()))?;
        // Whoever comes again shows its certificate again: it may have been revoked.
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
        Ok(Self {
            config: Arc::new(server),
            allowed_names: config.allowed_names.clone(),
        })
    }

    fn allows(&self, name: &str) -> bool {
        let matches = |pattern: &String| name::matches(pattern, name);
        self.allowed_names
            .as_ref()
            .is_none_or(|list| list.iter().any(matches))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes))
        .map_err(Error::file("read", path))?;
    Ok(bytes)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    let why = match list {
        Ok(list) if !list.is_empty() => return Ok(list),
        Ok(_) => "there is no certificate in it".into(),
        Err(error) => format!("{error}"),
    };
    Err(Error::Certificate {
        path: path.into(),
        why,
    })
}
