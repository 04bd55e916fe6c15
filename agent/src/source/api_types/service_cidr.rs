//! API types of ServiceCIDR.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;

use super::{metadata, null_is_default};

/// networking.k8s.io/v1 ServiceCIDR, since Kubernetes 1.33.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct ServiceCIDR {
    /// Name.
    #[serde(default, deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// Ranges.
    #[serde(default)]
    pub spec: ServiceCidrSpec,
}

/// networking.k8s.io/v1 ServiceCIDRSpec.
#[derive(Deserialize, Clone, Debug, Default)]
pub struct ServiceCidrSpec {
    /// One range per family.
    #[serde(default, deserialize_with = "null_is_default")]
    pub cidrs: Vec<String>,
}
