//! The client's side of TLS for the load generator. It takes any certificate: it measures, and sends nothing that
//! anybody could steal.

use std::{
    io::{self, Read, Write},
    net::SocketAddr,
    sync::Arc,
};

use anyhow::{Context, Result};
use rustls::{ClientConfig, ClientConnection, crypto::ring, pki_types::ServerName};

use crate::certificates::AnyPeer;

/// A connection's encryption.
pub(super) struct Tls(Box<ClientConnection>);

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tls")
    }
}

impl Tls {
    /// A handshake with the server at `address`, to be made by the first send and the receives after it.
    ///
    /// # Errors
    /// This machine has no cryptography, which none lacks.
    pub(super) fn begin(address: SocketAddr) -> Result<Self> {
        let crypto = Arc::new(ring::default_provider());
        let anyone = Arc::new(AnyPeer::new(&crypto));
        let config = ClientConfig::builder_with_provider(crypto)
            .with_safe_default_protocol_versions()
            .context("no version of TLS is there")?
            .dangerous()
            .with_custom_certificate_verifier(anyone)
            .with_no_client_auth();
        let name = ServerName::from(address.ip());
        let mut tls = ClientConnection::new(Arc::new(config), name).context("TLS cannot begin")?;
        // A send waits for the socket, so nothing piles up.
        tls.set_buffer_limit(None);
        Ok(Self(Box::new(tls)))
    }

    /// Encrypts `bytes` and writes them, or what the handshake has to say.
    ///
    /// # Errors
    /// The connection is broken.
    pub(super) fn send(&mut self, bytes: &[u8], stream: &mut impl Write) -> io::Result<()> {
        self.0.writer().write_all(bytes)?;
        while self.0.wants_write() {
            self.0.write_tls(stream)?;
        }
        Ok(())
    }

    /// Takes bytes of the socket, and puts what they mean behind `plain`.
    ///
    /// # Errors
    /// They make no sense, or the handshake failed.
    pub(super) fn receive(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> io::Result<()> {
        while !bytes.is_empty() {
            self.0.read_tls(&mut bytes)?;
            let state = self.0.process_new_packets().map_err(io::Error::other)?;
            let (start, more) = (plain.len(), state.plaintext_bytes_to_read());
            plain.resize(start + more, 0);
            self.0.reader().read_exact(&mut plain[start..])?;
        }
        Ok(())
    }
}
