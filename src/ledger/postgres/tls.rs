//! TLS to PostgreSQL: the server's certificate is always verified, by name too.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::ledger::LedgerError;

/// TLS that trusts the authorities in `ca_file` alone; without one, those of the system.
pub(super) fn config(ca_file: Option<&Path>) -> Result<ClientConfig, LedgerError> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = ca_file {
        let unreadable = |why: &dyn std::fmt::Display| LedgerError::CaFile { path: path.into(), why: why.to_string() };
        for certificate in CertificateDer::pem_file_iter(path).map_err(|error| unreadable(&error))? {
            let certificate = certificate.map_err(|error| unreadable(&error))?;
            roots.add(certificate).map_err(|error| unreadable(&error))?;
        }
        if roots.is_empty() {
            return Err(unreadable(&"it holds no certificate"));
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| LedgerError::Tls { source })?;
    Ok(config.with_root_certificates(roots).with_no_client_auth())
}
