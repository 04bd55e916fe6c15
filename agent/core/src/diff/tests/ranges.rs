//! Source ranges of load balancers.

use sluice_abi::{Frontend, frontend_flags, map};

use super::*;

/// Clients outside the ranges are never accepted, and those inside always are.
#[test]
fn source_ranges_precede_the_frontend_that_they_limit() {
    let mut kernel = Kernel::new(CAPACITY);
    let mut agent = Agent::start(&kernel);
    let open = "service shop/web 10.96.0.7 /UDP:53 lb=203.0.113.1";
    let limited = format!("{open} ranges=198.51.100.0/24");
    apply(&mut kernel, &mut agent, &[open, TWO_ENDPOINTS]);
    let plan = apply(&mut kernel, &mut agent, &[&limited]);
    assert_eq!(lengths(&plan), [(map::SOURCE_RANGES, 1), (map::FRONTENDS, 1)]);
    let other = format!("{open} ranges=198.51.100.0/25,10.0.0.0/8");
    let plan = apply(&mut kernel, &mut agent, &[&other]);
    assert_eq!(lengths(&plan), [(map::SOURCE_RANGES, 2), (map::SOURCE_RANGES, 1)]);
    assert!(plan.writes[1].is_delete());
    let plan = apply(&mut kernel, &mut agent, &[open]);
    assert_eq!(lengths(&plan), [(map::FRONTENDS, 1), (map::SOURCE_RANGES, 2)]);
}

/// The source ranges in the map, and whether the frontend of the load balancer is limited to them.
fn ranges(kernel: &Kernel) -> (usize, bool) {
    let limited = |f: &Frontend| f.flags & frontend_flags::SOURCE_RANGES != 0;
    (kernel.source_ranges.len(), kernel.frontends.values().any(limited))
}

/// A Service whose ranges do not fit is open to no client outside of those that are in the map.
#[test]
fn frontend_whose_source_ranges_do_not_fit_is_closed() {
    let open = "service shop/web 10.96.0.7 /UDP:53 lb=203.0.113.1";
    let limited = |ranges: &str| format!("{open} ranges={ranges}");
    let one = limited("198.51.100.0/24");
    for first in [open, &*one] {
        let mut kernel = Kernel::new(Capacity { source_ranges: 0, ..CAPACITY });
        let mut agent = Agent::start(&kernel);
        apply_beyond_capacity(&mut kernel, &mut agent, &[first, TWO_ENDPOINTS]);
        let plan = apply_beyond_capacity(&mut kernel, &mut agent, &[&one]);
        let [CapacityError::SourceRanges { max: 0, .. }] = plan.over_capacity[..] else {
            panic!("{:?}", plan.over_capacity);
        };
        assert_eq!((ranges(&kernel), kernel.frontends.len()), ((0, true), 4));
        // It opens again.
        let plan = apply(&mut kernel, &mut agent, &[open]);
        assert_eq!((plan.over_capacity, ranges(&kernel)), (vec![], (0, false)));
    }
    // A range that another Service port gives up is used.
    let mut kernel = Kernel::new(Capacity { source_ranges: 1, ..CAPACITY });
    let mut agent = Agent::start(&kernel);
    let other = "service shop/other 10.96.0.8 /UDP:53 lb=203.0.113.2";
    let other_limited = format!("{other} ranges=10.0.0.0/8");
    apply(&mut kernel, &mut agent, &[&other_limited, open, TWO_ENDPOINTS]);
    let plan = apply_beyond_capacity(&mut kernel, &mut agent, &[&one]);
    assert!(matches!(plan.over_capacity[..], [CapacityError::SourceRanges { used: 1, .. }]));
    apply_beyond_capacity(&mut kernel, &mut agent, &[other]);
    let plan = apply_beyond_capacity(&mut kernel, &mut agent, &[]);
    assert_eq!((plan.over_capacity, ranges(&kernel)), (vec![], (1, true)));
    // Of ranges that replace others, only those that fit are accepted; the others are not.
    let two = limited("10.0.0.0/8,172.16.0.0/12");
    let plan = apply_beyond_capacity(&mut kernel, &mut agent, &[&two]);
    assert_eq!((plan.over_capacity.len(), ranges(&kernel)), (1, (0, true)));
}

/// Endpoints that do not fit do not keep a frontend open that is to be limited.
#[test]
fn frontend_whose_endpoints_do_not_fit_is_limited_all_the_same() {
    let open = "service shop/web 10.96.0.7 /UDP:53 lb=203.0.113.1";
    let limited = format!("{open} ranges=198.51.100.0/24");
    let mut kernel = Kernel::new(Capacity { backends: 2, ..CAPACITY });
    let mut agent = Agent::start(&kernel);
    apply(&mut kernel, &mut agent, &[open, TWO_ENDPOINTS]);
    let others = "slice shop/web of=web ports=/UDP:53 10.244.1.4@n1 10.244.1.5@n1 10.244.1.6@n1";
    let plan = apply_beyond_capacity(&mut kernel, &mut agent, &[&limited, others]);
    assert!(matches!(plan.over_capacity[..], [CapacityError::Backends { .. }]));
    assert_eq!(ranges(&kernel), (1, true));
    let plan = apply_beyond_capacity(&mut kernel, &mut agent, &[open, TWO_ENDPOINTS]);
    assert_eq!((plan.over_capacity, ranges(&kernel)), (vec![], (0, false)));
}

/// A Service with too many ranges leaves the map to the others.
#[test]
fn source_ranges_of_a_service_are_limited() {
    let service = |name: &str, host: u32, ranges: u32| {
        let ranges: Vec<String> =
            (0..ranges).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
        let ranges = ranges.join(",");
        format!("service shop/{name} 10.96.0.{host} /UDP:53 lb=203.0.113.{host} ranges={ranges}")
    };
    let max = map::SOURCE_RANGES_PER_PORT;
    let mut kernel = Kernel::new(Capacity { source_ranges: 4 * max, ..CAPACITY });
    let mut agent = Agent::start(&kernel);
    let plan = apply(&mut kernel, &mut agent, &[&service("exact", 1, max)]);
    assert_eq!((plan.over_capacity, kernel.source_ranges.len()), (vec![], max as usize));
    let (more, other) = (service("more", 2, max + 1), service("other", 3, 1));
    let plan = apply_beyond_capacity(&mut kernel, &mut agent, &[&more, &other]);
    let [error @ CapacityError::RangesOfService { .. }] = &plan.over_capacity[..] else {
        panic!("{:?}", plan.over_capacity);
    };
    assert_eq!(
        error.to_string(),
        "addresses of the load balancer of Service shop/more:UDP drop clients in new source \
         ranges: it has 1025 ranges of one family, and at most 1024 are programmed"
    );
    assert_eq!(kernel.source_ranges.len(), max as usize + 1);
    let limited = |f: &&Frontend| f.flags & frontend_flags::SOURCE_RANGES != 0;
    assert_eq!(kernel.frontends.values().filter(limited).count(), 3);
}
