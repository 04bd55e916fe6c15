//! Client of the API server that works before any Service does.
//!
//! Address and identity, in this order:
//! 1. the kubeconfig given by flag;
//! 2. the service account of the pod, with the address from kubelet's kubeconfig (kubelet's identity
//!    is not used);
//! 3. the service account of the pod, with the address from its environment. That is a ClusterIP,
//!    which is reachable only if another proxy serves it.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{fs, io};

use hyper::http::Uri;
use hyper::http::uri::InvalidUri;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};

/// Deadline of a connection attempt.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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
    /// The client cannot be created (TLS).
    #[error("API server client")]
    Client(#[source] kube::Error),
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

/// A client with the agent's own identity.
///
/// # Errors
/// The kubeconfig is not valid, or there is neither a kubeconfig nor a service account.
pub async fn client(
    kubeconfig: Option<&Path>,
    kubelet_conf: &Path,
) -> Result<kube::Client, ApiServerError> {
    let mut config = match kubeconfig {
        Some(path) => from_kubeconfig(path).await?,
        None => in_cluster(kubelet_conf)?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    tracing::info!(server = %config.cluster_url, "API server: using this address");
    kube::Client::try_from(config).map_err(ApiServerError::Client)
}

async fn from_kubeconfig(path: &Path) -> Result<kube::Config, ApiServerError> {
    let error =
        |source| ApiServerError::Kubeconfig { path: path.to_owned(), source: Box::new(source) };
    let kubeconfig = Kubeconfig::read_from(path).map_err(error)?;
    kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(error)
}

fn in_cluster(kubelet_conf: &Path) -> Result<kube::Config, ApiServerError> {
    let mut config = kube::Config::incluster_env().map_err(ApiServerError::NoServiceAccount)?;
    let file = kubelet_conf.display();
    match kubelet_server(kubelet_conf) {
        Ok(Some(server)) => config.cluster_url = server,
        Ok(None) => {
            tracing::info!(%file, "kubelet configuration does not exist, using the ClusterIP of the API server");
        }
        Err(e) => {
            tracing::warn!(%file, error = %e, "kubelet configuration is not valid, using the ClusterIP of the API server");
        }
    }
    Ok(config)
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
