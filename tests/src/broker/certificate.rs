//! The certificates of the lab: its own certificate authority, and valid and invalid server certificates.

use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, date_time_ymd,
};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::NoServerSessionStorage;

/// The server's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Certificate {
    /// Valid: for its address, by the lab's authority.
    Right,
    /// By the lab's authority, for another name.
    OtherName,
    /// For its address, but expired.
    Expired,
    /// For its address, by an unknown authority.
    OtherAuthority,
}

/// A certificate authority.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().context("make a key")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("make an authority")?;
        Ok(Self { issuer })
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Configuration of a server at `address` with this kind of certificate.
    pub(crate) fn server(
        &self,
        address: IpAddr,
        certificate: Certificate,
    ) -> Result<Arc<ServerConfig>> {
        let name = match certificate {
            Certificate::OtherName => "other.example.org".to_owned(),
            _ => address.to_string(),
        };
        let mut params = CertificateParams::new([name]).context("name a certificate")?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        if certificate == Certificate::Expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let key = KeyPair::generate().context("make a key")?;
        let signed = params
            .signed_by(&key, &self.issuer)
            .context("sign a certificate")?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .context("choose TLS versions")?
            .with_no_client_auth()
            .with_single_cert(vec![signed.der().clone()], key)
            .context("use a certificate")?;
        // The historical client handles a session ticket of TLS 1.3 as an error.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Arc::new(config))
    }
}
