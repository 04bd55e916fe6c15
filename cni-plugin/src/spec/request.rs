//! What the runtime says by environment variables.

use std::path::PathBuf;

use super::error::{CniError, code};

/// `CNI_COMMAND`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Wire a container.
    Add,
    /// Undo it.
    Del,
    /// Is it still as ADD left it?
    Check,
    /// Undo all but the named ones.
    Gc,
    /// Would ADD work?
    Status,
    /// What do we speak?
    Version,
}

/// `CNI_ARGS`, as far as it says which pod this is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub name: Option<String>,
}

/// The variables that a verb needs, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Environment {
    /// `CNI_COMMAND`.
    pub verb: Verb,
    /// `CNI_CONTAINERID`; empty where the verb has none.
    pub container_id: String,
    /// `CNI_IFNAME`; empty where the verb has none.
    pub ifname: String,
    /// `CNI_NETNS`.
    pub netns: Option<PathBuf>,
    /// From `CNI_ARGS`.
    pub pod: Pod,
}

fn invalid(variable: &str, why: &str) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, format!("environment variable {variable} {why}"))
}

impl Environment {
    /// Reads and checks the variables by `get`.
    ///
    /// # Errors
    /// Code 4, naming the variable.
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
                return Err(invalid("CNI_COMMAND", &format!("has the unknown value {other:?}")));
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
            return Err(invalid(
                "CNI_CONTAINERID",
                "must begin with a letter or digit and hold only letters, digits and _ . -",
            ));
        }
        environment.ifname =
            get("CNI_IFNAME").ok_or_else(|| invalid("CNI_IFNAME", "is not set"))?;
        if !is_interface_name(&environment.ifname) {
            return Err(invalid(
                "CNI_IFNAME",
                "is no interface name (at most 15 bytes, no / or : or blank)",
            ));
        }
        if verb != Verb::Del && environment.netns.is_none() {
            return Err(invalid("CNI_NETNS", "is not set"));
        }
        if let Some(args) = get("CNI_ARGS") {
            environment.pod = pod(&args)?;
        }
        Ok(environment)
    }

    /// The pod as people call it, or the container.
    pub fn owner(&self) -> String {
        match (&self.pod.namespace, &self.pod.name) {
            (Some(namespace), Some(name)) => format!("pod {namespace}/{name}"),
            _ => format!("container {}", self.container_id),
        }
    }
}

fn pod(args: &str) -> Result<Pod, CniError> {
    let mut pod = Pod::default();
    for pair in args.split(';').filter(|pair| !pair.is_empty()) {
        let Some((key, value)) = pair.split_once('=') else {
            return Err(invalid("CNI_ARGS", &format!("holds {pair:?}, which is no KEY=VALUE")));
        };
        let value = Some(value.to_owned()).filter(|v| !v.is_empty());
        // The names end up in an interface alias whose parts are separated by blanks.
        if value.as_deref().is_some_and(|v| v.contains(char::is_whitespace)) {
            return Err(invalid("CNI_ARGS", &format!("holds a blank in {key}")));
        }
        match key {
            "K8S_POD_NAMESPACE" => pod.namespace = value,
            "K8S_POD_NAME" => pod.name = value,
            _ => {}
        }
    }
    Ok(pod)
}

/// The specification's pattern for container ids and network names.
pub(super) fn is_identifier(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-'))
}

fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && !matches!(text, "." | "..")
        && !text.contains(|c: char| c.is_whitespace() || matches!(c, '/' | ':'))
}
