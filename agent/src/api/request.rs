//! Requests and their filters.
//!
//! [`parse`] is the only entry for bytes from a client.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::VERSION;
use super::policy::{FlowEnds, PodQuery, PolicyFilter};
use super::response::ServiceRow;

/// Longest request line in bytes, newline excluded.
pub const MAX_REQUEST: usize = 4096;

/// A request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum Request {
    /// State of the node; the response is one [`super::Status`].
    Status {},
    /// Ports of Services; the response is one [`ServiceRow`] per port, protocol and address.
    Services(ServiceFilter),
    /// NetworkPolicies and ClusterNetworkPolicies; the response is one [`super::PolicyRow`] per policy.
    Policies(PolicyFilter),
    /// Dropped packets, a sample; the response is one [`super::DropRow`] per packet, and at its end the numbers
    /// of packets without a row.
    Drops {
        /// The number of the first one.
        from: u64,
    },
    /// What policies mean for a pod; the response is one [`super::PodPolicyRow`].
    ExplainPod(PodQuery),
    /// What policies decide about a flow; the response is one [`super::FlowPolicyRow`].
    JudgeFlow(FlowEnds),
}

/// Conditions on a [`ServiceRow`]; an absent one accepts every row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ServiceFilter {
    /// Part of `namespace/name` or of the frontend's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Namespace of the Service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Address of the frontend or of one of its backends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
}

/// A request line that the server rejects.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The line exceeds [`MAX_REQUEST`].
    #[error("request is longer than {MAX_REQUEST} bytes")]
    TooLong,
    /// The line is not a JSON object with `version` and `request`.
    #[error("request is not valid: {0}; expected {{\"version\":{VERSION},\"request\":{{..}}}}")]
    Malformed(String),
    /// The client uses another version of the protocol.
    #[error(
        "client uses API version {client}, this agent ({agent}) uses version {VERSION}; \
         use the `sluice` binary of the agent's image",
        agent = env!("CARGO_PKG_VERSION")
    )]
    Version {
        /// Version of the request.
        client: u64,
    },
    /// The request or one of its filters does not exist in this version.
    #[error(
        "request is not supported by this agent ({agent}, API version {VERSION}): {0}; \
         use the `sluice` binary of the agent's image",
        agent = env!("CARGO_PKG_VERSION")
    )]
    Unsupported(String),
}

#[derive(Serialize)]
struct Envelope<'a> {
    version: u32,
    request: &'a Request,
}

impl Request {
    /// The request as one line of the protocol, newline included.
    pub fn to_line(&self) -> String {
        // Strings, numbers and maps with string keys always serialize.
        let mut line = serde_json::to_string(&Envelope { version: VERSION, request: self })
            .unwrap_or_default();
        line.push('\n');
        line
    }
}

impl ServiceFilter {
    /// Whether `row` matches every condition.
    pub fn matches(&self, row: &ServiceRow) -> bool {
        let text = self.text.as_deref().is_none_or(|text| {
            row.service.contains(text) || row.address.to_string().contains(text)
        });
        let namespace = self.namespace.as_deref().is_none_or(|namespace| {
            row.service.split_once('/').is_some_and(|(of_row, _)| of_row == namespace)
        });
        let address = self.address.is_none_or(|address| {
            row.address == address || row.backends.iter().any(|b| b.ip() == address)
        });
        text && namespace && address
    }
}

impl RequestError {
    /// Name of the error for programs.
    pub fn code(&self) -> &'static str {
        match self {
            RequestError::TooLong => "tooLong",
            RequestError::Malformed(_) => "malformed",
            RequestError::Version { .. } => "version",
            RequestError::Unsupported(_) => "unsupported",
        }
    }
}

/// Parses a request line; a newline at its end is optional.
///
/// # Errors
/// The line is too long, is not an envelope, or has another version or an unknown request.
pub fn parse(line: &[u8]) -> Result<Request, RequestError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    if line.len() > MAX_REQUEST {
        return Err(RequestError::TooLong);
    }
    let mut envelope: Value =
        serde_json::from_slice(line).map_err(|e| RequestError::Malformed(e.to_string()))?;
    // The version comes first: what else an envelope of another version holds is unknown.
    let version = envelope.get("version").and_then(Value::as_u64);
    let client = version.ok_or_else(|| RequestError::Malformed("no version".to_owned()))?;
    if client != u64::from(VERSION) {
        return Err(RequestError::Version { client });
    }
    let request = envelope.get_mut("request").map(Value::take);
    let request = request.ok_or_else(|| RequestError::Malformed("no request".to_owned()))?;
    serde_json::from_value(request).map_err(|e| RequestError::Unsupported(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{Direction, FlowPeer, FlowQuery, ServiceAction};

    fn requests() -> Vec<Request> {
        let filter = ServiceFilter {
            text: Some("web".to_owned()),
            namespace: Some("shop".to_owned()),
            address: Some("fd00::1".parse().unwrap()),
        };
        vec![
            Request::Status {},
            Request::Services(ServiceFilter::default()),
            Request::Services(filter),
            Request::Policies(PolicyFilter { text: Some("db".to_owned()), ..Default::default() }),
            Request::Drops { from: 7 },
            Request::ExplainPod(PodQuery { pod: "shop/db-0".to_owned(), flow: None }),
            Request::ExplainPod(PodQuery {
                pod: "shop/db-0".to_owned(),
                flow: Some(FlowQuery {
                    direction: Direction::Ingress,
                    peer: FlowPeer::Address("10.244.1.8".parse().unwrap()),
                    protocol: 6,
                    port: 5432,
                }),
            }),
            Request::ExplainPod(PodQuery {
                pod: "shop/db-0".to_owned(),
                flow: Some(FlowQuery {
                    direction: Direction::Egress,
                    peer: FlowPeer::Pod("shop/web-0".to_owned()),
                    protocol: 17,
                    port: 53,
                }),
            }),
            Request::JudgeFlow(FlowEnds {
                client: "10.244.1.8".parse().unwrap(),
                server: "10.244.1.7".parse().unwrap(),
                protocol: 6,
                port: 5432,
            }),
        ]
    }

    #[test]
    fn every_request_parses_from_its_own_line() {
        for request in requests() {
            assert_eq!(parse(request.to_line().as_bytes()), Ok(request));
        }
    }

    #[test]
    fn wire_format_of_version_1_is_fixed() {
        let lines: Vec<String> = requests().iter().map(Request::to_line).collect();
        assert_eq!(
            lines,
            [
                "{\"version\":1,\"request\":{\"status\":{}}}\n",
                "{\"version\":1,\"request\":{\"services\":{}}}\n",
                "{\"version\":1,\"request\":{\"services\":{\"text\":\"web\",\"namespace\":\"shop\",\
                 \"address\":\"fd00::1\"}}}\n",
                "{\"version\":1,\"request\":{\"policies\":{\"text\":\"db\"}}}\n",
                "{\"version\":1,\"request\":{\"drops\":{\"from\":7}}}\n",
                "{\"version\":1,\"request\":{\"explainPod\":{\"pod\":\"shop/db-0\"}}}\n",
                "{\"version\":1,\"request\":{\"explainPod\":{\"pod\":\"shop/db-0\",\"flow\":\
                 {\"direction\":\"ingress\",\"peer\":\"10.244.1.8\",\"protocol\":6,\"port\":5432}}}}\n",
                "{\"version\":1,\"request\":{\"explainPod\":{\"pod\":\"shop/db-0\",\"flow\":\
                 {\"direction\":\"egress\",\"peer\":\"shop/web-0\",\"protocol\":17,\"port\":53}}}}\n",
                "{\"version\":1,\"request\":{\"judgeFlow\":{\"client\":\"10.244.1.8\",\"server\":\
                 \"10.244.1.7\",\"protocol\":6,\"port\":5432}}}\n",
            ]
        );
    }

    #[test]
    fn invalid_requests_are_rejected_with_the_reason() {
        for (line, code, message) in [
            ("hello", "malformed", "request is not valid: expected value"),
            ("{}", "malformed", "no version"),
            (r#"{"version":1}"#, "malformed", "no request"),
            (r#"{"version":2,"anything":[]}"#, "version", "client uses API version 2, this agent"),
            (r#"{"version":1,"request":{"flows":{}}}"#, "unsupported", "unknown variant `flows`"),
            (
                r#"{"version":1,"request":{"services":{"port":80}}}"#,
                "unsupported",
                "unknown field `port`",
            ),
            (r#"{"version":1,"request":{"status":{"x":1}}}"#, "unsupported", "unknown field `x`"),
        ] {
            let e = parse(line.as_bytes()).unwrap_err();
            assert_eq!(e.code(), code, "{line}: {e}");
            assert!(e.to_string().contains(message), "{line}: {e}");
        }
    }

    #[test]
    fn version_error_names_both_versions() {
        let text = parse(br#"{"version":7}"#).unwrap_err().to_string();
        assert!(text.contains("version 7") && text.contains("version 1"), "{text}");
    }

    #[test]
    fn longest_request_parses_and_a_longer_one_is_rejected() {
        let pad = |length: usize| {
            let line = Request::Status {}.to_line().trim_end().to_owned();
            format!("{line}{}\n", " ".repeat(length - line.len()))
        };
        assert_eq!(parse(pad(MAX_REQUEST).as_bytes()), Ok(Request::Status {}));
        assert_eq!(parse(pad(MAX_REQUEST + 1).as_bytes()), Err(RequestError::TooLong));
    }

    #[test]
    fn filter_conditions_are_combined() {
        let row = ServiceRow {
            service: "shop/web".to_owned(),
            port_name: "http".to_owned(),
            address: "10.96.0.1".parse().unwrap(),
            port: 80,
            protocol: "TCP".to_owned(),
            action: ServiceAction::Forward,
            kind: "ClusterIP".to_owned(),
            policy: "Cluster".to_owned(),
            source_ranges: Vec::new(),
            backends: vec!["10.244.1.5:8080".parse().unwrap()],
        };
        let filter = |text: Option<&str>, namespace: Option<&str>, address: Option<&str>| {
            ServiceFilter {
                text: text.map(str::to_owned),
                namespace: namespace.map(str::to_owned),
                address: address.map(|a| a.parse().unwrap()),
            }
            .matches(&row)
        };
        assert!(filter(None, None, None));
        assert!(filter(Some("p/we"), None, None) && filter(Some(".96."), None, None));
        assert!(!filter(Some("http"), None, None) && !filter(Some("10.244"), None, None));
        assert!(filter(None, Some("shop"), None));
        assert!(!filter(None, Some("sho"), None) && !filter(None, Some("web"), None));
        assert!(filter(None, None, Some("10.96.0.1")) && filter(None, None, Some("10.244.1.5")));
        assert!(!filter(None, None, Some("10.96.0.2")));
        assert!(!filter(Some("web"), Some("other"), None), "all conditions count");
        assert!(!filter(Some("db"), Some("shop"), None), "all conditions count");
    }
}
