//! Certificates of a test.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// A certificate authority and a certificate of it for `127.0.0.1` and `localhost`.
#[derive(Clone)]
pub struct Authority {
    /// The certificate of the authority, for clients.
    pub ca_pem: String,
    pub(crate) config: Arc<ServerConfig>,
}

impl Authority {
    /// A new authority with its own key.
    ///
    /// # Panics
    /// The certificates cannot be created.
    pub fn new() -> Authority {
        Authority::for_names(&["127.0.0.1", "localhost"])
    }

    /// A new authority; the server's certificate is for these names and addresses.
    ///
    /// # Panics
    /// The certificates cannot be created.
    pub fn for_names(names: &[&str]) -> Authority {
        let ca_key = KeyPair::generate().expect("key of the authority");
        let mut ca = CertificateParams::new(Vec::new()).expect("authority");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let ca_pem = ca.self_signed(&ca_key).expect("certificate of the authority").pem();
        let issuer = Issuer::new(ca, ca_key);
        let key = KeyPair::generate().expect("key of the server");
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let certificate = CertificateParams::new(names)
            .and_then(|params| params.signed_by(&key, &issuer))
            .expect("certificate of the server");
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .and_then(|builder| {
                builder.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key)
            })
            .expect("TLS configuration");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Authority { ca_pem, config: Arc::new(config) }
    }
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}
