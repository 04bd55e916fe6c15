//! What an error of a watch says about the API server.

use std::time::Duration;

use kube::runtime::watcher;

use super::retry::Failure;

/// Longest `Retry-After` that is observed.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// Whether the API server does not have the API of the kind. kube reports the refusal of a watch as the
/// first error of its stream.
pub fn not_served(error: &watcher::Error) -> bool {
    matches!(
        error,
        watcher::Error::InitialListFailed(kube::Error::Api(status))
        | watcher::Error::WatchStartFailed(kube::Error::Api(status))
        | watcher::Error::WatchFailed(kube::Error::Api(status)) if status.code == 404
    )
}

/// Whether the API server is absent or refuses.
pub fn cause(error: &watcher::Error) -> Failure {
    let refused = Failure::Refused(Duration::ZERO);
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => match error {
            kube::Error::Api(status) if status.code == 401 || status.code >= 500 => Failure::Absent,
            kube::Error::Api(status) => {
                let seconds = status.details.as_ref().map_or(0, |d| d.retry_after_seconds);
                Failure::Refused(Duration::from_secs(seconds.into()).min(RETRY_AFTER))
            }
            // The request failed before a response.
            kube::Error::HyperError(_) | kube::Error::Service(_) | kube::Error::Auth(_) => {
                Failure::Absent
            }
            _ => refused,
        },
        watcher::Error::WatchError(_) | watcher::Error::NoResourceVersion => refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_and_refusing_servers_are_distinguished() {
        let api = |code, seconds| {
            let details = kube::core::response::StatusDetails {
                name: String::new(),
                group: String::new(),
                kind: String::new(),
                uid: String::new(),
                causes: Vec::new(),
                retry_after_seconds: seconds,
            };
            let status = kube::core::Status { code, details: Some(details), ..Default::default() };
            watcher::Error::WatchStartFailed(kube::Error::Api(status.boxed()))
        };
        let refused = |seconds| Failure::Refused(Duration::from_secs(seconds));
        for (code, seconds, expected) in [
            (401, 0, Failure::Absent),
            (503, 1, Failure::Absent),
            (403, 0, refused(0)),
            (429, 7, refused(7)),
            (429, 100_000, refused(60)),
        ] {
            assert_eq!(cause(&api(code, seconds)), expected, "{code}");
        }
        let connect = kube::Error::Service("connection refused".into());
        assert_eq!(cause(&watcher::Error::InitialListFailed(connect)), Failure::Absent);
        assert_eq!(cause(&watcher::Error::NoResourceVersion), refused(0));
    }
}
