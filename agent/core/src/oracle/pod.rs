//! Endpoints whose Pods end.

use std::borrow::Cow;

use crate::model::{Endpoint, EndpointSlice, Object, Pod};

/// The objects as they are once every EndpointSlice has caught up with the deletionTimestamps of its
/// Pods: such an endpoint is terminating and not ready, unless its Service publishes addresses that are
/// not ready.
pub fn caught_up(objects: &[Object]) -> Cow<'_, [Object]> {
    let ending: Vec<&Pod> = objects
        .iter()
        .filter_map(|o| if let Object::Pod(pod) = o { Some(pod) } else { None })
        .filter(|pod| pod.terminating)
        .collect();
    let mut caught_up = Cow::Borrowed(objects);
    for (at, object) in objects.iter().enumerate() {
        let Object::EndpointSlice(slice) = object else { continue };
        let ends = |e: &Endpoint| ending.iter().any(|pod| is_of(e, pod));
        if publishes_not_ready(objects, slice) || !slice.endpoints.iter().any(ends) {
            continue;
        }
        if let Some(Object::EndpointSlice(slice)) = caught_up.to_mut().get_mut(at) {
            for endpoint in slice.endpoints.iter_mut().filter(|e| ends(e)) {
                (endpoint.ready, endpoint.terminating) = (false, true);
            }
        }
    }
    caught_up
}

/// Whether an endpoint is the Pod.
fn is_of(endpoint: &Endpoint, pod: &Pod) -> bool {
    endpoint.target.is_some() && endpoint.target == pod.uid
}

fn publishes_not_ready(objects: &[Object], slice: &EndpointSlice) -> bool {
    objects.iter().any(|o| match o {
        Object::Service(s) => s.publish_not_ready && slice.service_name().as_ref() == Some(&s.name),
        _ => false,
    })
}
