//! The environment variables of a call.

use std::path::PathBuf;

use super::error::{CniError, code};

/// What [`is_identifier`] requires.
pub(super) const IDENTIFIER_RULE: &str =
    "must start with a letter or digit and contain only letters, digits and _ . -";

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Attach a container to the network.
    Add,
    /// Detach it.
    Del,
    /// Compare an attachment with what ADD created.
    Check,
    /// Detach all attachments except the listed ones.
    Gc,
    /// Report whether ADD can succeed.
    Status,
    /// List the implemented versions.
    Version,
}

/// The pod, from `CNI_ARGS`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub name: Option<String>,
    /// `K8S_POD_UID`.
    pub uid: Option<String>,
}

/// The validated variables of a verb.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub verb: Verb,
    /// `CNI_CONTAINERID`; empty for verbs without it.
    pub container_id: String,
    /// `CNI_IFNAME`; empty for verbs without it.
    pub ifname: String,
    /// `CNI_NETNS`.
    pub netns: Option<PathBuf>,
    /// From `CNI_ARGS`.
    pub pod: Pod,
}

impl Environment {
    /// Reads and validates the variables through `get`.
    ///
    /// # Errors
    /// Code 4 with the name of the variable.
    pub fn read(get: impl Fn(&str) -> Option<String>) -> Result<Environment, CniError> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let verb = match get("CNI_COMMAND").as_deref() {
            Some("ADD") => Verb::Add,
            Some("DEL") => Verb::Del,
            Some("CHECK") => Verb::Check,
            Some("GC") => Verb::Gc,
            Some("STATUS") => Verb::Status,
            Some("VERSION") => Verb::Version,
            Some(other) => {
                return Err(invalid(
                    "CNI_COMMAND",
                    &format!("is {other:?}; known verbs are ADD, DEL, CHECK, GC, STATUS, VERSION"),
                ));
            }
            None => return Err(invalid("CNI_COMMAND", "is not set")),
        };
        let mut environment = Environment {
            verb,
            container_id: String::new(),
            ifname: String::new(),
            netns: get("CNI_NETNS").map(PathBuf::from),
            pod: Pod::default(),
        };
        if matches!(verb, Verb::Gc | Verb::Status | Verb::Version) {
            return Ok(environment);
        }
        environment.container_id =
            get("CNI_CONTAINERID").ok_or_else(|| invalid("CNI_CONTAINERID", "is not set"))?;
        if !is_identifier(&environment.container_id) {
            return Err(invalid("CNI_CONTAINERID", IDENTIFIER_RULE));
        }
        environment.ifname =
            get("CNI_IFNAME").ok_or_else(|| invalid("CNI_IFNAME", "is not set"))?;
        if !is_interface_name(&environment.ifname) {
            return Err(invalid(
                "CNI_IFNAME",
                "must be an interface name: at most 15 bytes without white space, / and :",
            ));
        }
        if verb != Verb::Del && environment.netns.is_none() {
            return Err(invalid("CNI_NETNS", "is not set"));
        }
        if let Some(args) = get("CNI_ARGS") {
            environment.pod = match (parse_args(&args), verb) {
                // The pod must be deletable, and only messages use the arguments.
                (Err(_), Verb::Del) => Pod::default(),
                (pod, _) => pod?,
            };
        }
        Ok(environment)
    }

    /// The pod, or the container if the pod is unknown.
    pub fn owner(&self) -> String {
        match (&self.pod.namespace, &self.pod.name) {
            (Some(namespace), Some(name)) => format!("pod {namespace}/{name}"),
            _ => format!("container {}", self.container_id),
        }
    }
}

fn parse_args(args: &str) -> Result<Pod, CniError> {
    let mut pod = Pod::default();
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(invalid("CNI_ARGS", &format!("contains {pair:?}, expected KEY=VALUE")));
        };
        let value = Some(value.to_owned()).filter(|v| !v.is_empty());
        // The interface alias separates its parts by spaces.
        if value.as_deref().is_some_and(|v| v.contains(char::is_whitespace)) {
            return Err(invalid(
                "CNI_ARGS",
                &format!("contains white space in the value of {key}"),
            ));
        }
        match key {
            "K8S_POD_NAMESPACE" => pod.namespace = value,
            "K8S_POD_NAME" => pod.name = value,
            "K8S_POD_UID" => pod.uid = value,
            _ => {}
        }
    }
    Ok(pod)
}

/// Whether a text matches the specification's pattern for container ids and network names.
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| c.is_whitespace() || matches!(c, '/' | ':'))
}

fn invalid(variable: &str, why: &str) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, format!("environment variable {variable} {why}"))
}
