//! Verification of servers.

use std::{fmt, path::PathBuf, sync::Arc};

use anyhow::{Context as _, anyhow};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
};

use crate::host::config_file;

/// How to verify the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsChoice {
    /// A PEM file with the trusted certificate authorities; `None`: the system's.
    pub ca: Option<PathBuf>,
    /// `false`: no verification, like AICCU. A man in the middle can then read the tunnel's password, but not
    /// the user's.
    pub verify: bool,
}

impl Default for TlsChoice {
    fn default() -> Self {
        Self {
            ca: None,
            verify: true,
        }
    }
}

/// The TLS configuration. Reads files.
pub(crate) fn client_config(choice: &TlsChoice) -> anyhow::Result<ClientConfig> {
    // Explicit, since rustls panics without a default provider, and a program with two providers has none.
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("set up TLS")?;
    if !choice.verify {
        let any = Arc::new(AnyCertificate(provider));
        return Ok(config
            .dangerous()
            .with_custom_certificate_verifier(any)
            .with_no_client_auth());
    }
    Ok(config
        .with_root_certificates(authorities(choice)?)
        .with_no_client_auth())
}

fn authorities(choice: &TlsChoice) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(file) = &choice.ca {
        let read = || format!("read the authorities in {}", file.display());
        let (bytes, _) = config_file::read_whole(file).with_context(read)?;
        for certificate in CertificateDer::pem_slice_iter(&bytes) {
            roots
                .add(certificate.with_context(read)?)
                .with_context(read)?;
        }
        if roots.is_empty() {
            return Err(anyhow!("expected certificates in PEM form, found none"))
                .with_context(read);
        }
        return Ok(roots);
    }
    // If the system has none, the handshake fails later; not every server uses TLS.
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::debug!("the system's certificate authorities: {error}");
    }
    roots.add_parsable_certificates(found.certs);
    Ok(roots)
}

/// Accepts any certificate.
struct AnyCertificate(Arc<CryptoProvider>);

impl fmt::Debug for AnyCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AnyCertificate")
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.0.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}
