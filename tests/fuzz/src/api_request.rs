//! Request lines of the agent's socket.
//!
//! A request that parses is printed as one line that parses to the same request. Lines above the
//! limit are rejected without parsing. Error messages have a bounded length.

use sluice_agent::api::request::{MAX_REQUEST, RequestError, parse};
use sluice_agent::api::{Request, ServiceAction, ServiceRow};

/// Messages quote a part of the request; a character is escaped to at most 10 bytes.
const MAX_MESSAGE: usize = 10 * MAX_REQUEST + 512;

pub(super) fn run(data: &[u8]) {
    let too_long = data.strip_suffix(b"\n").unwrap_or(data).len() > MAX_REQUEST;
    match parse(data) {
        Ok(request) => {
            assert!(!too_long);
            let line = request.to_line();
            assert_eq!(line.find('\n'), Some(line.len() - 1));
            // Fields of a list, which serde accepts for a struct, have no names.
            if line.len() <= MAX_REQUEST {
                assert_eq!(parse(line.as_bytes()).as_ref(), Ok(&request));
            }
            if let Request::Services(filter) = request {
                let everything =
                    filter.text.is_none() && filter.namespace.is_none() && filter.address.is_none();
                assert!(filter.matches(&row()) || !everything);
            }
        }
        Err(e) => {
            assert_eq!(e == RequestError::TooLong, too_long);
            assert!(e.to_string().len() <= MAX_MESSAGE, "{}", e.to_string().len());
        }
    }
}

fn row() -> ServiceRow {
    ServiceRow {
        service: "shop/web".to_owned(),
        port_name: "http".to_owned(),
        kind: "ClusterIP".to_owned(),
        policy: "Cluster".to_owned(),
        source_ranges: Vec::new(),
        address: [10, 96, 0, 1].into(),
        port: 80,
        protocol: "TCP".to_owned(),
        action: ServiceAction::Forward,
        backends: vec![([10, 244, 1, 5], 8080).into()],
    }
}
