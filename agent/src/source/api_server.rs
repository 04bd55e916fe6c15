//! Address of the API server and credentials, read from files.
//!
//! Address and identity, in this order:
//! 1. the kubeconfig given by flag;
//! 2. the service account of the pod, with the address given by `--api-server`, else the one from
//!    kubelet's kubeconfig (kubelet's identity is not used);
//! 3. the service account of the pod, with the address from its environment. That is a ClusterIP,
//!    which is reachable only if another proxy serves it.
//!
//! All files are read at each call of [`Access::load`]: they are replaced while the agent runs.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::{fs, io};

use hyper::http::Uri;
use hyper::http::uri::InvalidUri;
use kube::config::{AuthInfo, InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

use crate::config::ApiAccess;

/// The API server cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ApiServerError {
    /// The kubeconfig file is not valid.
    #[error("kubeconfig {path}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Box<KubeconfigError>,
    },
    /// There is neither a kubeconfig nor a service account.
    #[error(
        "no credentials for the API server: give --kubeconfig, or --source with a directory of \
         manifests, or run in a pod with a service account"
    )]
    NoServiceAccount(#[source] InClusterError),
    /// The client cannot be created (TLS, proxy).
    #[error("API server client")]
    Client(#[source] Box<kube::Error>),
}

/// The address in kubelet's kubeconfig cannot be read.
#[derive(Debug, thiserror::Error)]
enum KubeletConfError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error(transparent)]
    Parse(#[from] KubeconfigError),
    #[error("server: {0}")]
    Server(#[from] InvalidUri),
}

/// Why the ClusterIP is used.
#[derive(Clone, Debug)]
pub enum Fallback {
    /// Kubelet's kubeconfig does not exist or is empty.
    NoFile,
    /// Kubelet's kubeconfig is not valid.
    Invalid(String),
}

/// Address and credentials as the files have them now.
#[derive(Clone, Debug)]
pub struct Access {
    /// Configuration of a client.
    pub config: kube::Config,
    /// Where the address comes from, for the log.
    pub origin: &'static str,
    /// The address is the ClusterIP: no file or flag has one. An error says that kubelet's file is
    /// not valid.
    pub fallback: Option<Fallback>,
    /// Hash of the address, the CA and the client certificate. Connections with another one are
    /// obsolete.
    pub peer: u64,
    /// Hash of everything, tokens included.
    pub all: u64,
}

impl Access {
    /// Reads all files.
    ///
    /// # Errors
    /// The kubeconfig is not valid, or there is neither a kubeconfig nor a service account.
    pub async fn load(access: &ApiAccess) -> Result<Access, ApiServerError> {
        let (mut config, mut origin, fallback) = match &access.kubeconfig {
            Some(path) => (from_kubeconfig(path).await?, "kubeconfig", None),
            None => in_cluster(access)?,
        };
        if let Some(server) = &access.server {
            config.cluster_url = server.clone();
            origin = "--api-server";
        }
        let auth = &config.auth_info;
        let mut peer = DefaultHasher::new();
        config.cluster_url.to_string().hash(&mut peer);
        config.root_cert.hash(&mut peer);
        config.tls_server_name.hash(&mut peer);
        auth.client_certificate_data.hash(&mut peer);
        content(auth.client_certificate.as_deref()).hash(&mut peer);
        content(auth.client_key.as_deref()).hash(&mut peer);
        let mut all = peer.clone();
        content(auth.token_file.as_deref()).hash(&mut all);
        secret(auth).hash(&mut all);
        Ok(Access { origin, fallback, peer: peer.finish(), all: all.finish(), config })
    }
}

/// Credentials that a kubeconfig contains itself. `AuthInfo` serializes them.
fn secret(auth: &AuthInfo) -> String {
    serde_json::to_string(auth).unwrap_or_default()
}

fn content(file: Option<&str>) -> Option<Vec<u8>> {
    fs::read(file?).ok()
}

async fn from_kubeconfig(path: &Path) -> Result<kube::Config, ApiServerError> {
    let error =
        |source| ApiServerError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let kubeconfig = Kubeconfig::read_from(path).map_err(error)?;
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(error)
}

fn in_cluster(
    access: &ApiAccess,
) -> Result<(kube::Config, &'static str, Option<Fallback>), ApiServerError> {
    let (server, origin) = match &access.server {
        Some(server) => (Ok(Some(server.clone())), "--api-server"),
        None => (kubelet_server(&access.kubelet_conf), "kubelet configuration"),
    };
    let fallback = match server {
        Ok(Some(server)) => {
            // Reads the files of the service account, but not the environment.
            let mut config =
                kube::Config::incluster_dns().map_err(ApiServerError::NoServiceAccount)?;
            config.cluster_url = server;
            return Ok((config, origin, None));
        }
        Ok(None) => Fallback::NoFile,
        Err(e) => Fallback::Invalid(e.to_string()),
    };
    let config = kube::Config::incluster_env().map_err(ApiServerError::NoServiceAccount)?;
    Ok((config, "ClusterIP", Some(fallback)))
}

/// The server of the current context of kubelet's kubeconfig, or of its first cluster. `None`
/// without a file; an empty one, which a hostPath of type FileOrCreate leaves, counts as none.
fn kubelet_server(path: &Path) -> Result<Option<Uri>, KubeletConfError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let server = server(&Kubeconfig::from_yaml(&text)?);
    server.map(|server| server.parse()).transpose().map_err(KubeletConfError::Server)
}

fn server(config: &Kubeconfig) -> Option<String> {
    let context = config.contexts.iter().find(|c| Some(&c.name) == config.current_context.as_ref());
    let cluster = context.and_then(|c| c.context.as_ref()).map(|c| &c.cluster);
    let named = config.clusters.iter().find(|c| Some(&c.name) == cluster);
    named.or(config.clusters.first())?.cluster.as_ref()?.server.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As kubeadm writes it, with a second cluster.
    const KUBELET_CONF: &str = "
apiVersion: v1
kind: Config
clusters:
- name: other
  cluster: {server: https://other:6443}
- name: kubernetes
  cluster: {certificate-authority-data: AAAA, server: https://cp:6443}
contexts:
- name: system:node:n1@kubernetes
  context: {cluster: kubernetes, user: default-auth}
current-context: system:node:n1@kubernetes
users:
- name: default-auth
  user:
    client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem
    client-key: /var/lib/kubelet/pki/kubelet-client-current.pem
";

    fn read(text: &str) -> Result<Option<Uri>, KubeletConfError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), text).unwrap();
        kubelet_server(file.path())
    }

    #[tokio::test]
    async fn changed_client_certificate_makes_connections_obsolete_and_a_changed_token_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let config = serde_json::json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443"}}],
            "users": [{"name": "u", "user": {
                "client-certificate": path("crt"), "client-key": path("key"),
                "tokenFile": path("token"),
            }}],
        });
        fs::write(path("kubeconfig"), config.to_string()).unwrap();
        for name in ["crt", "key", "token"] {
            fs::write(path(name), "one").unwrap();
        }
        let access = ApiAccess {
            kubeconfig: Some(path("kubeconfig")),
            kubelet_conf: path("absent"),
            server: None,
        };
        let mut before = Access::load(&access).await.unwrap();
        for (name, obsolete) in [("crt", true), ("key", true), ("token", false)] {
            fs::write(path(name), "two").unwrap();
            let now = Access::load(&access).await.unwrap();
            assert_eq!(now.peer != before.peer, obsolete, "{name}");
            assert_ne!(now.all, before.all, "{name}");
            before = now;
        }
    }

    #[test]
    fn server_of_the_current_context_is_used() {
        assert_eq!(read(KUBELET_CONF).unwrap().unwrap().to_string(), "https://cp:6443/");
    }

    #[test]
    fn first_cluster_is_used_without_a_current_context() {
        let text = KUBELET_CONF.replace("current-context", "unknown-field");
        assert_eq!(read(&text).unwrap().unwrap().to_string(), "https://other:6443/");
    }

    #[test]
    fn missing_or_empty_file_has_no_server() {
        assert_eq!(kubelet_server(Path::new("/does/not/exist")).unwrap(), None);
        assert_eq!(read("").unwrap(), None);
        assert_eq!(read(" \n").unwrap(), None);
        assert_eq!(read("kind: Config").unwrap(), None);
    }

    #[test]
    fn invalid_file_is_an_error() {
        assert!(read("clusters: 3").is_err());
        let text = KUBELET_CONF.replace("https://cp:6443", "'not a uri'");
        assert!(read(&text).unwrap_err().to_string().starts_with("server: "));
    }
}
