//! How the agent reaches the API server before any Service works.
//!
//! In order: a kubeconfig given by flag; in a pod, its own service account against the address
//! that kubelet uses (only `server:` of kubelet's kubeconfig is read, never its identity); the
//! environment that kubelet gives every pod, which names a ClusterIP and so works only where
//! something else serves it already.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use serde::Deserialize;

/// Why there is no way to the API server.
#[derive(Debug, thiserror::Error)]
pub enum ApiServerError {
    /// The kubeconfig file cannot be used.
    #[error("kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<kube::config::KubeconfigError>,
    },
    /// Neither a kubeconfig nor a service account.
    #[error(
        "no way to the API server: give --kubeconfig, or --source with a folder of manifests, \
         or run in a pod with a service account ({0})"
    )]
    NoServiceAccount(#[source] kube::config::InClusterError),
    /// The client cannot be made (TLS).
    #[error("API server client: {0}")]
    Client(#[source] kube::Error),
}

/// A client with the agent's own identity.
pub async fn client(
    kubeconfig: Option<&Path>,
    kubelet_conf: &Path,
) -> Result<kube::Client, ApiServerError> {
    let mut config = match kubeconfig {
        Some(path) => from_kubeconfig(path).await?,
        None => {
            let mut config =
                kube::Config::incluster_env().map_err(ApiServerError::NoServiceAccount)?;
            match kubelet_server(kubelet_conf) {
                Ok(Some(server)) => config.cluster_url = server,
                Ok(None) => {
                    tracing::info!(file = %kubelet_conf.display(), "no kubelet configuration, using the API server's ClusterIP");
                }
                Err(e) => {
                    tracing::warn!(file = %kubelet_conf.display(), error = %e, "cannot read the API server's address, using its ClusterIP");
                }
            }
            config
        }
    };
    config.connect_timeout = Some(Duration::from_secs(5));
    tracing::info!(server = %config.cluster_url, "API server");
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

#[derive(Deserialize)]
struct KubeletConf {
    #[serde(default)]
    clusters: Vec<NamedCluster>,
}

#[derive(Deserialize)]
struct NamedCluster {
    cluster: Cluster,
}

#[derive(Deserialize)]
struct Cluster {
    server: String,
}

/// The `server:` of kubelet's kubeconfig; `None` where there is no such file (or an empty one,
/// which is what a `FileOrCreate` mount makes of it).
fn kubelet_server(path: &Path) -> Result<Option<hyper::http::Uri>, String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    if text.trim().is_empty() {
        return Ok(None);
    }
    let conf: KubeletConf = serde_yaml::from_str(&text).map_err(|e| e.to_string())?;
    let Some(first) = conf.clusters.into_iter().next() else { return Ok(None) };
    first.cluster.server.parse().map(Some).map_err(|e| format!("server: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_is_all_that_is_read_of_kubelets_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("kubelet.conf");
        assert_eq!(kubelet_server(&file).unwrap(), None);
        std::fs::write(&file, "").unwrap();
        assert_eq!(kubelet_server(&file).unwrap(), None);
        std::fs::write(
            &file,
            "apiVersion: v1\nkind: Config\nclusters:\n- name: c\n  cluster:\n    server: https://cp:6443\nusers: []\n",
        )
        .unwrap();
        assert_eq!(kubelet_server(&file).unwrap().unwrap().to_string(), "https://cp:6443/");
        std::fs::write(&file, "clusters: 3").unwrap();
        assert!(kubelet_server(&file).is_err());
    }
}
