//! Certificates as an operator makes them, in files, and what a client makes of them.

use std::{path::PathBuf, sync::Arc};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer},
};

use crate::Options;

/// An authority, and the directory in which it keeps what it makes.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    directory: tempfile::TempDir,
}

/// A certificate and its key.
#[derive(Debug)]
pub struct Certified {
    /// The certificate's bytes.
    pub certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    /// The certificate in PEM.
    pub cert_file: PathBuf,
    /// The key in PEM.
    pub key_file: PathBuf,
}

impl Certified {
    /// What a server goes by that shows it.
    ///
    /// # Panics
    /// Never: it is a sound certificate.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        let crypto = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(crypto).with_safe_default_protocol_versions();
        let builder = builder.expect("versions that exist").with_no_client_auth();
        let made = builder.with_single_cert(vec![self.certificate.clone()], self.key.clone_key());
        Arc::new(made.expect("a sound certificate"))
    }
}

impl Authority {
    /// Makes one.
    ///
    /// # Panics
    /// When the disk is full, as everything here.
    #[must_use]
    pub fn new(name: &str) -> Self {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key).expect("an authority can be made");
        let directory = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(directory.path().join("ca.pem"), certificate.pem()).expect("a file can be written");
        Self { certificate: certificate.der().clone(), issuer: Issuer::new(params, key), directory }
    }

    /// Where its own certificate is.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Makes a certificate that is good for a node on this machine and for a client.
    #[must_use]
    pub fn certify(&self, name: &str) -> Certified {
        self.certify_for(name, &["127.0.0.1", "localhost"])
    }

    /// The same, for a node at `hosts`, which are addresses or DNS names.
    ///
    /// # Panics
    /// When one of them is neither.
    #[must_use]
    pub fn certify_for(&self, name: &str, hosts: &[&str]) -> Certified {
        let key = KeyPair::generate().expect("a key can be made");
        let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
        let mut params = CertificateParams::new(hosts).expect("good names");
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be made");
        let path = |end: &str| self.directory.path().join(format!("{name}.{end}"));
        let (cert_file, key_file) = (path("pem"), path("key"));
        std::fs::write(&cert_file, certificate.pem()).expect("a file can be written");
        std::fs::write(&key_file, key.serialize_pem()).expect("a file can be written");
        let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        Certified { certificate: certificate.der().clone(), key, cert_file, key_file }
    }

    /// A node's flags, with a certificate that is made for it, and HTTPS on a free port.
    #[must_use]
    pub fn options(&self) -> Options {
        let Certified { cert_file, key_file, .. } = self.certify("node");
        Options::new()
            .arg(format!("--tls-cert={}", cert_file.display()))
            .arg(format!("--tls-key={}", key_file.display()))
            .arg("--https-address=127.0.0.1:0")
    }

    /// What a client goes by that trusts this authority and shows `certified`, if anything.
    #[must_use]
    pub fn client(&self, certified: Option<&Certified>) -> Arc<ClientConfig> {
        self.client_of(rustls::ALL_VERSIONS, certified)
    }

    /// The same, for a client that speaks some versions of TLS only.
    #[must_use]
    pub fn client_of(
        &self,
        versions: &[&'static SupportedProtocolVersion],
        certified: Option<&Certified>,
    ) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("an authority");
        let crypto = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(crypto).with_protocol_versions(versions);
        let builder = builder.expect("versions that exist").with_root_certificates(roots);
        Arc::new(match certified {
            None => builder.with_no_client_auth(),
            Some(Certified { certificate, key, .. }) => builder
                .with_client_auth_cert(vec![certificate.clone()], key.clone_key())
                .expect("a sound certificate"),
        })
    }
}
